"""`python -m diffx.scale`: a training on many GPUs, on paper. A door: nothing imports it."""

from diffx.commands.scale import main

if __name__ == "__main__":
    main()
