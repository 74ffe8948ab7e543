"""`python -m diffx.sample`: draw samples from a run. A door: nothing imports it."""

from diffx.commands.sample import main

if __name__ == "__main__":
    main()
