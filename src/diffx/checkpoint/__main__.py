"""`python -m diffx.checkpoint`. A door: nothing imports it."""

from diffx.commands.checkpoint import main

if __name__ == "__main__":
    main()
