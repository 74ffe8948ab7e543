"""`python -m diffx.prepare`. A door: nothing imports it."""

import sys

from diffx.commands.prepare import main

if __name__ == "__main__":
    sys.exit(main())
