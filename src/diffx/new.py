"""`python -m diffx.new`: the files of a method of your own. A door: nothing imports it."""

from diffx.commands.new import main

if __name__ == "__main__":
    main()
