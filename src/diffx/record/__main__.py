"""`python -m diffx.record check FOLDER`: whether an entry of a track of records stands."""

import argparse
import sys
from pathlib import Path

from diffx.curves.metric import name_metric
from diffx.curves.read import UNITS
from diffx.errors import DiffxError
from diffx.plain import write_number
from diffx.record.check import Finding, check


def main(arguments: list[str] | None = None) -> int:
    """Exit code 0 when the entry stands, 1 when it does not, 2 with a sentence where there is none."""
    parser = argparse.ArgumentParser(prog="python -m diffx.record", description="Records: check an entry of a track.")
    parser.add_argument("action", choices=["check"])
    parser.add_argument("folder", type=Path, help="an entry, such as experiments/records/digits/001-plain")
    given = parser.parse_args(arguments)
    try:
        found = check(given.folder)
    except DiffxError as error:
        print(f"diffx: {error}", file=sys.stderr)
        return 2
    print("\n".join(write_finding(found)))
    return 0 if found.stands else 1


def write_finding(found: Finding) -> list[str]:
    """What was claimed, what was found, and whether it stands."""
    track, entry = found.track, found.entry
    unit, seconds = UNITS[track.cost], "" if found.cost is None else f" ({found.cost * 3600:.4g} seconds)"
    cost = "nothing that can be read" if found.cost is None else f"{write_number(found.cost)} {unit}{seconds}"
    lines = [
        f"{track.title}: {name_metric(track.metric)} ≤ {track.target:g}, cheapest in {unit}",
        f"{entry.folder.name}: {entry.methods[0].label}, {len(entry.runs)} seeds, by {entry.said['by']}, "
        f"{entry.said['date']}: {cost}, median over seeds; finding its settings cost: {entry.said['search']}",
    ]
    if found.before is not None and found.chance is not None:
        name, theirs = found.before
        lines.append(f"before it: {name}, {write_number(theirs)} {unit}; p {found.chance:.2g}, one-sided permutation")
    lines += [f"fault: {fault}." for fault in found.faults]
    return [*lines, "It stands." if found.stands else f"It does not stand: {len(found.faults)} faults."]


if __name__ == "__main__":
    sys.exit(main())
