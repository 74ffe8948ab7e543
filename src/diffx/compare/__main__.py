"""`python -m diffx.compare RUN_OR_STUDY... -o REPORT`"""

import argparse
import sys
from pathlib import Path

from diffx.compare.cost import RULES
from diffx.compare.output import compare
from diffx.compare.shown.caption import LENGTHS
from diffx.compare.shown.publish import Destination
from diffx.errors import DiffxError


def main(arguments: list[str] | None = None) -> int:
    """Exit code 0, or 2 with one message when the runs cannot be compared."""
    given = vars(make_parser().parse_args(arguments))
    wandb, project, entity = (given.pop(name) for name in ("wandb", "project", "entity"))
    try:
        if (project or entity) and not wandb:
            raise DiffxError("--project and --entity say where --wandb publishes; add --wandb.")
        compare(**given, destination=Destination(project, entity) if wandb else None)
    except DiffxError as error:
        print(f"diffx: {error}", file=sys.stderr)
        return 2
    return 0


def make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m diffx.compare", description="Compare runs: curves, time-to-target, tables."
    )
    add = parser.add_argument
    add("paths", nargs="+", type=Path, metavar="RUN_OR_STUDY",
        help="run directories, pairs NAME.json and NAME.jsonl, or folders above them")  # fmt: skip
    add("-o", "--out", type=Path, metavar="FOLDER", help="where to write (default: compare/ beside the runs)")
    add("--baseline", metavar="LABEL", help="what to compare with (default: the method without plugins)")
    add("--target", dest="targets", type=float, nargs="+", default=(), help="values to time (default: a ladder)")
    add("--protocol", metavar="NAME",
        help="compare what diffx.evaluate measured so (curve_NAME.jsonl), such as adm_50k")  # fmt: skip
    add("--cost", default="measured", choices=RULES,
        help="charge each run what it measured (default), or methods of equal FLOPs the same for a step")  # fmt: skip
    add("--forecast", type=float, metavar="HOURS",
        help="what every method would measure at this larger budget, with intervals")  # fmt: skip
    add("--scaling", action="store_true",
        help="fit how distances fall with training FLOPs over networks of many sizes")  # fmt: skip
    add("--caption", default="full", choices=LENGTHS,
        help="under the curves in the PNG and SVG: nothing, how to read them, or on what they rest too")  # fmt: skip
    add("--best", action="store_true", help="use the best value so far instead of the current one")
    add("--mixed", action="store_true", help="draw runs of two protocols, devices or cost units, marked")
    add("--wandb", action="store_true", help="publish the figure, the tables and a report in W&B")
    add("--project", metavar="P", help="W&B project (default: the one that the runs were logged to)")
    add("--entity", metavar="E", help="W&B entity (default: the one that is logged in)")
    return parser


if __name__ == "__main__":
    sys.exit(main())
