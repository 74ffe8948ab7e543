"""`python -m diffx.evaluate`: measure samples under a protocol. A door: nothing imports it."""

from diffx.commands.evaluate import main

if __name__ == "__main__":
    main()
