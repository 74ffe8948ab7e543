"""`python -m diffx.plan`: what a run would do and cost. A door: nothing imports it."""

from diffx.commands.plan import main

if __name__ == "__main__":
    main()
