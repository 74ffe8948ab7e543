"""`python -m diffx`: train a configuration, or sweep and compare. A door: nothing imports it."""

from diffx.commands.train import main

if __name__ == "__main__":
    main()
