"""`python -m diffx.compare RUN_OR_STUDY... -o REPORT`"""

import argparse
import sys
from pathlib import Path

from diffx.compare.cost import RULES
from diffx.compare.report import compare
from diffx.compare.shown.publish import Destination
from diffx.errors import DiffxError


def main(arguments: list[str] | None = None) -> int:
    """Exit code 0, or 2 with one message when the runs cannot be compared."""
    parser = argparse.ArgumentParser(
        prog="python -m diffx.compare", description="Compare runs: curves, time-to-target, tables."
    )
    parser.add_argument(
        "paths",
        nargs="+",
        type=Path,
        metavar="RUN_OR_STUDY",
        help="run directories, pairs NAME.json and NAME.jsonl, or folders above them",
    )
    parser.add_argument(
        "-o", "--out", type=Path, metavar="REPORT", help="folder of the report (default: compare/ beside the runs)"
    )
    parser.add_argument(
        "--baseline", metavar="LABEL", help="what to compare with (default: the method without plugins)"
    )
    parser.add_argument("--target", type=float, nargs="+", default=(), help="values to time (default: a ladder)")
    parser.add_argument(
        "--protocol", metavar="NAME", help="compare what diffx.evaluate measured so (curve_NAME.jsonl), such as adm_50k"
    )
    parser.add_argument(
        "--cost", default="measured", choices=RULES,
        help="charge each run what it measured (default), or methods of equal FLOPs the same for a step",
    )  # fmt: skip
    parser.add_argument("--best", action="store_true", help="use the best value so far instead of the current one")
    parser.add_argument(
        "--mixed", action="store_true", help="draw runs of two protocols, devices or cost units, marked"
    )
    parser.add_argument("--wandb", action="store_true", help="publish the figure, the tables and a report in W&B")
    parser.add_argument("--project", metavar="P", help="W&B project (default: the one that the runs were logged to)")
    parser.add_argument("--entity", metavar="E", help="W&B entity (default: the one that is logged in)")
    given = parser.parse_args(arguments)
    destination = Destination(given.project, given.entity) if given.wandb else None
    try:
        if (given.project or given.entity) and not given.wandb:
            raise DiffxError("--project and --entity say where --wandb publishes; add --wandb.")
        compare(
            given.paths,
            given.out,
            given.mixed,
            baseline=given.baseline,
            targets=given.target,
            best=given.best,
            protocol=given.protocol,
            cost=given.cost,
            destination=destination,
        )
    except DiffxError as error:
        print(error, file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
