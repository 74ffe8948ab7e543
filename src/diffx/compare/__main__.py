"""`python -m diffx.compare RUN_OR_STUDY... -o REPORT`"""

import argparse
import sys
from pathlib import Path

from diffx.compare.report import compare
from diffx.errors import DiffxError


def main(arguments: list[str] | None = None) -> int:
    """Exit code 0, or 2 with one message when the runs cannot be compared."""
    parser = argparse.ArgumentParser(
        prog="python -m diffx.compare", description="Compare runs: curves, time-to-target, tables."
    )
    parser.add_argument(
        "paths", nargs="+", type=Path, metavar="RUN_OR_STUDY", help="run directories or folders above them"
    )
    parser.add_argument(
        "-o", "--out", type=Path, metavar="REPORT", help="folder of the report (default: compare/ beside the runs)"
    )
    parser.add_argument(
        "--baseline", metavar="LABEL", help="what to compare with (default: the method without plugins)"
    )
    parser.add_argument("--target", type=float, nargs="+", default=(), help="values to time (default: a ladder)")
    parser.add_argument("--best", action="store_true", help="use the best value so far instead of the current one")
    parser.add_argument(
        "--mixed", action="store_true", help="draw runs of two protocols, devices or cost units, marked"
    )
    given = parser.parse_args(arguments)
    try:
        compare(given.paths, given.out, given.mixed, baseline=given.baseline, targets=given.target, best=given.best)
    except DiffxError as error:
        print(error, file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
