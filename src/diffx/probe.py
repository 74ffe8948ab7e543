"""`python -m diffx.probe`: what each block of a run knows. A door: nothing imports it."""

from diffx.commands.probe import main

if __name__ == "__main__":
    main()
