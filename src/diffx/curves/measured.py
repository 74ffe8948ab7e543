"""Evaluations after training, under protocols of their own: RUN/curve_NAME.jsonl, which `diffx.evaluate` writes.

They never share an axis with the curve of training or with each other. What tells two of them from each other is the
hash that stands with every value, not the name of the file.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from diffx.curves.read import Point, Run, keep_finite, list_leaves, make_points, read_lines
from diffx.errors import DiffxError, clean_text
from diffx.plain import clean, group

START = "curve_"


@dataclass(frozen=True)
class Measured:
    """A run's evaluations under one protocol: the file's NAME, the protocol's hash and all that it fixes."""

    name: str
    key: str
    facts: dict[str, Any]
    points: tuple[Point, ...]

    def __str__(self) -> str:
        return f"{self.name}:{self.key}" if self.key else self.name


def read_measured(run: Run) -> list[Measured]:
    """What a run's curve_*.jsonl hold, a protocol at a time; lines and files that cannot be read are left out."""
    found = []
    for file in sorted(run.source.folder.glob(f"{START}*.jsonl")):
        try:
            lines = read_lines(file)[0]
        except (DiffxError, OSError):
            continue
        for key, alike in group((line, clean_text(str(line.get("protocol") or ""))) for line in lines).items():
            points = keep_finite(make_points(alike, run.unit)[0])
            known = [line["protocol_facts"] for line in alike if isinstance(line.get("protocol_facts"), dict)]
            if points:
                name = clean_text(file.stem.removeprefix(START))
                found.append(Measured(name, key, clean(known[0]) if known else {}, tuple(points)))
    return found


def pick_measured(runs: Sequence[Run], wanted: str) -> tuple[list[Run], list[str]]:
    """The runs with their evaluations under one protocol, NAME or NAME:HASH, in place of the curve of training.

    Returns them, and a remark for each that was not measured so. Raises DiffxError when none was, or when NAME stands
    for several protocols.
    """
    per_run = [read_measured(run) for run in runs]
    fitting = [[one for one in found if wanted in (one.name, str(one))] for found in per_run]
    keys = {str(one): one for found in fitting for one in found}
    if not keys:
        known = dict.fromkeys(str(one) for found in per_run for one in found)
        there = f"There is {', '.join(known)}" if known else f"Type python -m diffx.evaluate RUN --protocol {wanted}"
        raise DiffxError(f"no run was measured under the protocol {wanted}. {there}.")
    if len(keys) > 1:
        raise DiffxError(
            f"{wanted} stands for {len(keys)} protocols, which do not share an axis: "
            + "; ".join(f"{key} ({setting})" for key, setting in zip(keys, list_varied(keys.values()), strict=True))
            + ". Type --protocol with one of them."
        )
    kept = [take_measured(run, found[0]) for run, found in zip(runs, fitting, strict=True) if found]
    left = [run for run, found in zip(runs, fitting, strict=True) if not found]
    return kept, [f"{run.source.name}: skipped: not measured under {wanted}" for run in left]


def list_varied(several: Iterable[Measured]) -> list[str]:
    """What tells protocols from each other, in words: the settings that are not the same in all."""
    leaves = [dict(list_leaves(one.facts)) for one in several]
    names = dict.fromkeys(name for one in leaves for name in one)
    varied = [name for name in names if len({repr(one.get(name)) for one in leaves}) > 1]
    return [", ".join(f"{name} {one.get(name)}" for name in varied) or "settings not recorded" for one in leaves]


def take_measured(run: Run, found: Measured) -> Run:
    """The run as one protocol saw it; what real images score under it is not known."""
    facts = {**run.facts, "protocol": found.facts, "protocol_hash": found.key, "reference": {}}
    return replace(run, points=found.points, facts=facts, diverged=False)
