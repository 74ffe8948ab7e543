"""Runs on disk, read without trusting them: one bad run costs one remark, never the comparison.

A run is a run directory (`run.json`, `config.yaml`, `curve.jsonl`), or a pair NAME.json and NAME.jsonl that a study
keeps of it, with NAME.yaml where its settings were kept too.
"""

import json
import math
import os
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import yaml  # type: ignore[import-untyped]
from omegaconf import OmegaConf

from diffx.errors import DiffxError, clean_text
from diffx.plain import clean, group, join
from diffx.run.distances import pick_distances

UNITS = {"gpu_hours": "GPU-hours", "cpu_hours": "CPU-hours"}  # the costs that a run may count, as people write them
NOT_RUNS = {"checkpoints", "samples", "wandb"}  # folders inside a run directory
LARGEST = 32 * 2**20  # bytes of a file that a run may bring
LABEL = 60  # letters of a label
STEPS = 2**53  # counts beyond this are no longer exact numbers
NOT_FINITE = re.compile(r"\bnan\b|\binf(inity)?\b|(non|not)[ -]?finite", re.IGNORECASE)


@dataclass(frozen=True)
class Point:
    """One evaluation. `cost` is in the hours of the run's `unit`, `train_flops` counts the whole training so far."""

    step: int
    images: int
    cost: float
    train_flops: float
    values: dict[str, float]
    protocol: str


@dataclass(frozen=True)
class Source:
    """Where a run lies: its facts, its curve, its settings where they were kept, and a short name for remarks."""

    name: str
    facts: Path
    curve: Path
    config: Path | None
    folder: Path


@dataclass(frozen=True)
class Run:
    """One training run: its resolved configuration, the facts of `run.json` (those of EMPTY are always there), and the
    evaluations that can be used."""

    source: Source
    config: dict[str, Any]
    facts: dict[str, Any]
    points: tuple[Point, ...]
    unit: str  # "gpu_hours" or "cpu_hours"
    diverged: bool = False

    @property
    def seed(self) -> int:
        return int(self.facts.get("seed") or 0)

    @property
    def key(self) -> tuple[str, str]:
        """What seeds of one method share: experiment and id."""
        return str(self.facts.get("experiment", "")), str(self.facts.get("id", self.source.folder.parent.name))

    @property
    def plugins(self) -> tuple[str, ...]:
        return tuple(self.facts.get("plugins") or ())

    @property
    def label(self) -> str:
        return clean_text(str(self.facts.get("label") or "+".join(self.plugins) or "plain"), LABEL)

    @property
    def device(self) -> str | None:
        """The name of what it ran on, or its kind."""
        return self.facts["device"].get("name") or self.facts["device"].get("kind")

    @property
    def unit_name(self) -> str:
        """GPU-hours or CPU-hours."""
        return UNITS.get(self.unit, self.unit)

    @property
    def last_step(self) -> int:
        return self.points[-1].step if self.points else 0

    @property
    def last_cost(self) -> float | None:
        return self.points[-1].cost if self.points else None

    @property
    def floors(self) -> dict[str, float]:
        """What real images score, by metric, where it is known."""
        known = self.facts["reference"].get("floor") or {}
        return {metric: float(value) for metric, value in known.items() if value is not None}

    def values(self, metric: str) -> list[float]:
        return [point.values[metric] for point in self.points if metric in point.values]


def read(paths: Sequence[Path]) -> tuple[list[Run], list[str]]:
    """All usable runs at or below the paths, and a remark for everything left out. A missing path raises DiffxError."""
    runs: list[Run] = []
    remarks: list[str] = []
    for source in find_runs(paths):
        run, said = read_run(source)
        remarks += [f"{source.name}: {line}" for line in said]
        runs += [run] if run is not None else []
    kept, doubles = drop_duplicates(runs)
    return kept, remarks + doubles + name_same_curves(kept)


def find_runs(paths: Iterable[Path]) -> list[Source]:
    """Run directories and pairs at or below the paths, each once, sorted."""
    found: dict[Path, Source] = {}
    for path in paths:
        if not path.is_dir():
            raise DiffxError(f"{path} is not a folder. Give run directories, or a folder above them such as runs/demo.")
        for folder, below, files in os.walk(path):
            for source in list_sources(Path(folder).resolve(), files):
                found[source.curve] = source
            below[:] = [name for name in below if name not in NOT_RUNS]
    return [found[key] for key in sorted(found)]


def list_sources(folder: Path, files: Sequence[str]) -> Iterator[Source]:
    """The run that a folder is, or the pairs that it holds."""
    if "run.json" in files or "curve.jsonl" in files:
        name = clean_text("/".join(folder.parts[-3:]))
        yield Source(name, folder / "run.json", folder / "curve.jsonl", folder / "config.yaml", folder)
        return
    for curve in (folder / file for file in files if file.endswith(".jsonl") and f"{file[:-1]}" in files):
        config = curve.with_suffix(".yaml")
        kept = config if config.name in files else None
        yield Source(clean_text("/".join(curve.parts[-2:])), curve.with_suffix(".json"), curve, kept, folder)


def read_run(source: Source) -> tuple[Run | None, list[str]]:
    """One run, or None, and what a reader has to know about it."""
    try:
        facts = clean(json.loads(read_bytes(source.facts)))
        config = {} if source.config is None else clean(read_settings(source.config))
    except Exception as error:  # any broken file is this run's problem alone
        said = str(error).splitlines() or [type(error).__name__]
        return None, [f"skipped: {clean_text(said[0])}"]
    if not isinstance(facts, dict) or not isinstance(config, dict):
        return None, ["skipped: run.json and config.yaml have to be mappings"]
    if wrong := find_misshapen(facts):
        return None, [f"skipped: {wrong} in {source.facts.name} is not what diffx writes"]
    facts = EMPTY | {name: value for name, value in facts.items() if value is not None}
    try:
        lines, remarks = read_lines(source.curve)
    except (DiffxError, OSError):
        lines, remarks = [], []
    unit = facts.get("cost") or next((name for name in UNITS if any(name in line for line in lines)), "gpu_hours")
    points, said = make_points(lines, unit)
    kept, run_ends, used = end_run(facts, points)
    run = Run(source, config, facts, tuple(kept), unit, run_ends is not None)
    return (run if used else None), [*remarks, *said, *describe_end(run, points, run_ends)]


def end_run(facts: dict[str, Any], points: Sequence[Point]) -> tuple[list[Point], int | None, bool]:
    """The points before a run broke, the step at which it did (None when it did not), and whether the run is used.

    A run diverged when its record says so, or at its first distance that is not finite. It is always used: that it
    diverged is its result.
    """
    status, reason = facts.get("status", "complete"), str(facts.get("reason") or "")
    kept = keep_finite(points)
    broke = points[len(kept)].step if len(kept) < len(points) else None
    if status == "diverged" or (status == "failed" and NOT_FINITE.search(reason)):
        recorded = facts.get("diverged_at")
        last = kept[-1].step if kept else 0
        broke = min(step for step in (broke, recorded if recorded is not None else broke or last) if step is not None)
        kept = [point for point in kept if point.step <= broke]
    return kept, broke, broke is not None or (bool(points) and status != "failed")


def describe_end(run: Run, points: Sequence[Point], broke: int | None) -> list[str]:
    """The sentence that says why a run is skipped or how it ended."""
    status = run.facts.get("status", "complete")
    if broke is not None:
        reason = clean_text(str(run.facts.get("reason") or "").strip().rstrip("."))
        said = f"diverged at step {broke}: {reason}" if reason else f"diverged: NaN at step {broke}"
        ends = "its curve ends before" if run.points else "it was never evaluated"
        return [f"{said}; {ends}, and later targets count as not reached"]
    if not points:
        return ["skipped: no evaluations" + (" and the run failed" if status == "failed" else "")]
    if status == "failed":
        return [f"skipped: the run failed after step {points[-1].step}"]
    return [] if status == "complete" else [f"{clean_text(str(status))}: its curve ends at step {points[-1].step}"]


def read_bytes(file: Path) -> bytes:
    """A regular file of a size that diffx writes; anything else (a pipe, a device) is refused unopened."""
    if not file.exists():
        raise DiffxError(f"no {file.name}")
    if not file.is_file():
        raise DiffxError(f"{file.name} is not a regular file")
    if file.stat().st_size > LARGEST:
        raise DiffxError(f"{file.name} is larger than {LARGEST >> 20} MB")
    return file.read_bytes()


def read_settings(file: Path) -> Any:
    """A configuration. YAML aliases, which diffx never writes, are refused: few bytes of them can mean gigabytes."""
    text = read_bytes(file).decode()
    if any(isinstance(event, yaml.AliasEvent) for event in yaml.parse(text, Loader=yaml.SafeLoader)):
        raise DiffxError(f"{file.name} holds YAML aliases, which diffx does not write")
    return OmegaConf.to_container(OmegaConf.create(text), resolve=False)


def read_lines(file: Path) -> tuple[list[dict[str, Any]], list[str]]:
    """The JSON lines of a curve. A line that is no point or cannot be read is left out with a remark."""
    lines: list[dict[str, Any]] = []
    remarks: list[str] = []
    raw = read_bytes(file).split(b"\n")
    texts = raw[:-1] if raw and not raw[-1] else raw
    for number, text in enumerate(texts, start=1):
        if not text.strip():
            continue
        try:
            line = json.loads(text.decode())
        except (ValueError, RecursionError):
            cut = number == len(texts)
            wrong = f"the last line of {file.name} (line {number}) is cut off" if cut else None
            remarks.append(f"{wrong or f'line {number} of {file.name} cannot be read'}: that evaluation is left out")
            continue
        if isinstance(line, dict):
            lines.append(line)
        else:
            remarks.append(f"line {number} of {file.name} is no evaluation: left out")
    return lines, remarks


def make_points(lines: Sequence[dict[str, Any]], unit: str) -> tuple[list[Point], list[str]]:
    """Points in the order of steps. A resumed run may repeat a step: training went on from the later line."""
    by_step: dict[int, Point] = {}
    unusable = 0
    for line in lines:
        try:
            point = make_point(line, unit)
        except (KeyError, TypeError, ValueError, OverflowError):
            unusable += 1
            continue
        if point.cost <= 0:  # an evaluation before training, which has no place on a logarithmic axis
            continue
        by_step = {step: kept for step, kept in by_step.items() if step < point.step}
        by_step[point.step] = point
    points: list[Point] = []
    for point in by_step.values():
        if points and point.cost <= points[-1].cost:
            unusable += 1
        else:
            points.append(point)
    return points, [
        f"{unusable} evaluation(s) without a step, values or growing {unit} are left out"
    ] if unusable else []


def make_point(line: dict[str, Any], unit: str) -> Point:
    """Raises ValueError, KeyError or TypeError for a line that is not what an evaluation writes."""
    values = {
        clean_text(str(name), LABEL): math.nan if value is None else float(value)
        for name, value in dict(line["values"]).items()
    }
    step, images = int(line["step"]), int(line.get("images") or 0)
    cost, flops = float(line[unit]), float(line.get("train_flops") or 0.0)
    if not (math.isfinite(cost) and math.isfinite(flops) and 0 <= step < STEPS and 0 <= images < STEPS):
        raise ValueError("a cost has to be finite, and a step a count")
    return Point(step, images, cost, flops, values, clean_text(str(line.get("protocol", ""))))


def keep_finite(points: Sequence[Point]) -> list[Point]:
    """The points before the first distance that is not finite. Other values that are not finite are dropped alone."""
    kept: list[Point] = []
    for point in points:
        if any(not math.isfinite(point.values[name]) for name in pick_distances(point.values)):
            break
        values = {name: value for name, value in point.values.items() if math.isfinite(value)}
        kept.append(replace(point, values=values))
    return kept


def drop_duplicates(runs: Iterable[Run]) -> tuple[list[Run], list[str]]:
    """One run per experiment, id and seed: the one that went furthest."""
    best: dict[tuple[str, str, int], Run] = {}
    remarks: list[str] = []
    for run in runs:
        key = (*run.key, run.seed)
        other = best.setdefault(key, run)
        if other is run:
            continue
        kept, dropped = (run, other) if run.last_step > other.last_step else (other, run)
        best[key] = kept
        remarks.append(f"{dropped.source.name}: skipped: a duplicate of {kept.source.name} (same id and seed)")
    return list(best.values()), remarks


def name_same_curves(runs: Sequence[Run]) -> list[str]:
    """A remark on every curve that stands under two seed numbers of a method: seeds never agree to the last digit."""
    curves = [(run, tuple((point.step, tuple(point.values.items())) for point in run.points)) for run in runs]
    return [
        f"seeds {join(str(run.seed) for run in same)} of {same[0].label} have one and the same curve, digit for digit: "
        "if one run was copied under several seed numbers, its spread says nothing"
        for same in group((run, (run.key, curve)) for run, curve in curves if curve).values()
        if len(same) > 1
    ]


def list_leaves(config: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """The leaves of a nested mapping as dotted names and values; a list is one value."""
    for name, value in config.items():
        if isinstance(value, dict) and value:
            yield from list_leaves(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


def is_finite(value: Any) -> bool:
    return isinstance(value, int | float) and abs(value) < 1e300  # also refuses integers too large for a float


def is_numbers(value: Any) -> bool:
    return isinstance(value, dict) and all(one is None or is_finite(one) for one in value.values())


NUMBERS = ("parameters", "flops", "clock", "train_parts")
MAPPINGS = ("device", "protocol", "versions", "git", "offline")
LISTS = ("encoders", "feature_networks")
# What kind of thing each entry of run.json has to be before a comparison relies on it, and what it is without one.
SHAPES: dict[str, Callable[[Any], bool]] = {
    "seed": lambda value: isinstance(value, int) and abs(value) < STEPS,
    "plugins": lambda value: isinstance(value, list) and all(isinstance(one, str) for one in value),
    **dict.fromkeys(NUMBERS, is_numbers),
    **dict.fromkeys(MAPPINGS, lambda value: isinstance(value, dict)),
    **dict.fromkeys(LISTS, lambda value: isinstance(value, list) and all(isinstance(one, dict) for one in value)),
    **dict.fromkeys(("samples_per_second", "peak_memory_bytes"), is_finite),
    "reference": lambda value: isinstance(value, dict) and is_numbers(value.get("floor") or {}),
    "cost": lambda value: isinstance(value, str) and value in UNITS,
    "diverged_at": lambda value: isinstance(value, int) and 0 <= value < STEPS,
}
EMPTY: dict[str, Any] = {**{name: {} for name in (*NUMBERS, *MAPPINGS, "reference")}, **{name: [] for name in LISTS}}


def find_misshapen(facts: dict[str, Any]) -> str | None:
    """The first entry of run.json whose kind is wrong, so that nothing downstream doubts it; None when all fit."""
    wrong = (name for name, fits in SHAPES.items() if facts.get(name) is not None and not fits(facts[name]))
    return next(wrong, None)
