"""A track: what is to be reached, at what cost; and an entry of it: a folder with the seeds of one method.

experiments/records/<track>/track.yaml says the metric, the value, the cost and the protocol. Every folder beside it is
an entry, in the order of their names; it holds the runs (pairs NAME.json, NAME.jsonl and NAME.yaml, or run folders) and
a record.yaml: who, when, the command, and what finding the settings has cost.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from diffx.curves.curve import Curve, Reach, find_cost
from diffx.curves.method import Method, group_runs
from diffx.curves.points import tabulate
from diffx.curves.read import UNITS, Run, read, read_settings
from diffx.errors import DiffxError
from diffx.plain import clean

TRACK = {"title": str, "metric": str, "target": float, "cost": str, "protocol": dict}
ENTRY = {"by": str, "date": str, "command": str, "search": str}  # search: what finding the settings has cost


@dataclass(frozen=True)
class Track:
    """`metric` at most `target`, cheapest in `cost` (gpu_hours or cpu_hours), measured under these settings."""

    folder: Path
    title: str
    metric: str
    target: float
    cost: str
    protocol: dict[str, Any]  # entries of a run's protocol that are fixed, by dotted name

    def list_entries(self) -> list[Path]:
        """The entries' folders, in order."""
        return sorted(one for one in self.folder.iterdir() if one.is_dir())


@dataclass(frozen=True)
class Entry:
    """One entry: what its record.yaml says, its seeds, and remarks on files that could not be used."""

    folder: Path
    said: dict[str, Any]
    methods: tuple[Method, ...]
    remarks: tuple[str, ...]

    @property
    def runs(self) -> list[Run]:
        return [run for method in self.methods for run in method.runs]

    def reach(self, track: Track) -> dict[int, Reach]:
        """The cost of the target by seed."""
        points = tabulate(self.methods)
        label = self.methods[0].label if self.methods else ""
        curves = points.curves(label, track.metric)
        return {run.seed: find_cost(curves.get(run.seed, Curve((), ())), track.target) for run in self.runs}


def read_track(folder: Path) -> Track:
    """The track of a folder; DiffxError when its track.yaml is missing or wrong."""
    facts = read_facts(folder / "track.yaml", TRACK)
    if facts["cost"] not in UNITS:
        raise DiffxError(f"{folder / 'track.yaml'} has cost {facts['cost']}; type one of {', '.join(UNITS)}.")
    return Track(folder, **facts)


def read_entry(folder: Path) -> Entry:
    """An entry as it lies there; DiffxError when there is no record.yaml or no run."""
    facts = read_facts(folder / "record.yaml", ENTRY)
    runs, remarks = read([folder])
    if not runs:
        raise DiffxError(
            f"{folder} holds no run: {'; '.join(remarks) or 'no run.json, and no pair NAME.json, .jsonl'}."
        )
    return Entry(folder, facts, tuple(group_runs(runs)), tuple(remarks))


def read_facts(file: Path, kinds: Mapping[str, type]) -> dict[str, Any]:
    """A small YAML file with just these entries of these kinds."""
    if not file.is_file():
        raise DiffxError(f"there is no {file}; docs/records.md says what it holds.")
    try:
        found = clean(read_settings(file))
    except Exception as error:  # any broken file is a stranger's
        raise DiffxError(f"{file} cannot be read: {str(error).splitlines()[0]}") from error
    found = found if isinstance(found, dict) else {}
    for name, kind in kinds.items():
        value = found.get(name)
        value = float(value) if kind is float and isinstance(value, int) else value
        if not isinstance(value, kind) or value in ("", {}):
            raise DiffxError(f"{file} lacks {name}, or it is of another kind; docs/records.md says what it holds.")
        found[name] = value
    return {name: found[name] for name in kinds}
