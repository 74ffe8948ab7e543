"""`python -m diffx.worker`: train one resolved configuration. A door: nothing imports it."""

from diffx.commands.worker import main

if __name__ == "__main__":
    main()
