"""Run directories on disk, read without trusting them: one bad run costs one line of the report, never the report."""

import json
import math
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from diffx.compare.facts import COSTS, misshapen
from diffx.compare.metric import distances
from diffx.errors import DiffxError

AXES = ("cost", "step", "images", "train_flops")  # what a curve can be drawn against: attributes of a Point
NOT_RUNS = {"checkpoints", "samples", "wandb"}  # folders inside a run directory


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
class Run:
    """One training run: its resolved configuration, the facts of `run.json`, and the evaluations that can be used."""

    folder: Path
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
        return str(self.facts.get("experiment", "")), str(self.facts.get("id", self.folder.parent.name))

    @property
    def plugins(self) -> tuple[str, ...]:
        return tuple(self.facts.get("plugins") or ())

    @property
    def label(self) -> str:
        return str(self.facts.get("label") or "+".join(self.plugins) or "plain")

    def series(self, metric: str, axis: str = "cost") -> tuple[list[float], list[float]]:
        """The curve of one metric: positions on one of AXES, and values."""
        kept = [point for point in self.points if metric in point.values]
        return [float(getattr(point, axis)) for point in kept], [point.values[metric] for point in kept]


def read(paths: Sequence[Path]) -> tuple[list[Run], list[str]]:
    """All usable runs at or below the paths, and a remark for everything left out. A missing path raises DiffxError."""
    runs: list[Run] = []
    remarks: list[str] = []
    for folder in find(paths):
        run, said = read_run(folder)
        remarks += [f"{short(folder)}: {line}" for line in said]
        if run is not None:
            runs.append(run)
    kept, doubles = without_duplicates(runs)
    return kept, remarks + doubles


def find(paths: Iterable[Path]) -> list[Path]:
    """Run directories at or below the paths, each once, sorted."""
    found: set[Path] = set()
    for path in paths:
        if not path.is_dir():
            raise DiffxError(f"{path} is not a folder. Give run directories, or a folder above them such as runs/demo.")
        for folder, below, files in os.walk(path):
            if "run.json" in files or "curve.jsonl" in files:
                found.add(Path(folder).resolve())
            below[:] = [name for name in below if name not in NOT_RUNS]
    return sorted(found)


def read_run(folder: Path) -> tuple[Run | None, list[str]]:
    """One run directory, or None, and what a reader has to know about it."""
    try:
        facts = json.loads((folder / "run.json").read_text())
        config = OmegaConf.to_container(OmegaConf.load(folder / "config.yaml"), resolve=False)
    except Exception as error:  # any broken file is this run's problem alone
        return None, [f"skipped: {first_line(error)}"]
    if not isinstance(facts, dict) or not isinstance(config, dict):
        return None, ["skipped: run.json and config.yaml have to be mappings"]
    if wrong := misshapen(facts):
        return None, [f"skipped: {wrong} in run.json is not what diffx writes"]
    if not (folder / "curve.jsonl").is_file():
        return None, ["skipped: no evaluations (no curve.jsonl)"]
    lines, remarks = read_lines(folder / "curve.jsonl")
    unit = facts.get("cost") or next((name for name in COSTS if any(name in line for line in lines)), COSTS[0])
    points, said = usable_points(lines, unit)
    finite = until_divergence(points)
    diverged = len(finite) < len(points)
    run = Run(folder, {str(k): v for k, v in config.items()}, facts, tuple(finite), unit, diverged)
    verdict, skipped = judge(run, points)
    return (None if skipped else run), remarks + said + verdict


def judge(run: Run, points: Sequence[Point]) -> tuple[list[str], bool]:
    """Whether a run is skipped, and the sentence that says why or how it ended."""
    status = run.facts.get("status", "complete")
    if not points:
        return ["skipped: no evaluations" + (" and the run failed" if status == "failed" else "")], True
    if run.diverged:
        step = points[len(run.points)].step
        if not run.points:
            return [f"skipped: diverged, its first evaluation (step {step}) is NaN"], True
        return [f"diverged: NaN at step {step}; its curve ends before, and later targets count as not reached"], False
    if status == "failed":
        return [f"skipped: the run failed after step {points[-1].step}"], True
    if status != "complete":
        return [f"{status}: its curve ends at step {points[-1].step}"], False
    return [], False


def read_lines(file: Path) -> tuple[list[dict[str, Any]], list[str]]:
    """The JSON lines of a curve. A line that cannot be read is left out with a remark."""
    lines: list[dict[str, Any]] = []
    remarks: list[str] = []
    texts = file.read_text(errors="replace").splitlines()
    for number, text in enumerate(texts, start=1):
        if not text.strip():
            continue
        try:
            line = json.loads(text)
        except ValueError:
            line = None
        if isinstance(line, dict):
            lines.append(line)
        elif number == len(texts):
            remarks.append(f"the last line of curve.jsonl (line {number}) is cut off: that evaluation is left out")
        else:
            remarks.append(f"line {number} of curve.jsonl cannot be read: that evaluation is left out")
    return lines, remarks


def usable_points(lines: Sequence[dict[str, Any]], unit: str) -> tuple[list[Point], list[str]]:
    """Points in the order of steps. A resumed run may repeat a step: training went on from the later line."""
    by_step: dict[int, Point] = {}
    unusable = 0
    for line in lines:
        try:
            point = as_point(line, unit)
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
    remark = f"{unusable} evaluation(s) without a step, values or growing {unit} are left out"
    return points, [remark] if unusable else []


def as_point(line: dict[str, Any], unit: str) -> Point:
    values = {str(name): math.nan if value is None else float(value) for name, value in dict(line["values"]).items()}
    cost, flops = float(line[unit]), float(line.get("train_flops") or 0.0)
    if not (math.isfinite(cost) and math.isfinite(flops)):
        raise ValueError("a cost has to be finite")
    return Point(
        step=int(line["step"]),
        images=int(line.get("images") or 0),
        cost=cost,
        train_flops=flops,
        values=values,
        protocol=str(line.get("protocol", "")),
    )


def until_divergence(points: Sequence[Point]) -> list[Point]:
    """The points before the first distance that is not finite. Other values that are not finite are dropped alone."""
    kept: list[Point] = []
    for point in points:
        if any(not math.isfinite(point.values[name]) for name in distances(point.values)):
            break
        values = {name: value for name, value in point.values.items() if math.isfinite(value)}
        kept.append(replace(point, values=values))
    return kept


def without_duplicates(runs: Iterable[Run]) -> tuple[list[Run], list[str]]:
    """One run per experiment, id and seed: the one that went furthest."""
    best: dict[tuple[str, str, int], Run] = {}
    remarks: list[str] = []
    for run in runs:
        key = (*run.key, run.seed)
        other = best.setdefault(key, run)
        if other is run:
            continue
        kept, dropped = (run, other) if run.points[-1].step > other.points[-1].step else (other, run)
        best[key] = kept
        remarks.append(f"{short(dropped.folder)}: skipped: a duplicate of {short(kept.folder)} (same id and seed)")
    return list(best.values()), remarks


def short(folder: Path) -> str:
    """The last parts of a run's path: experiment/id/seed."""
    return "/".join(folder.parts[-3:])


def first_line(error: Exception) -> str:
    if isinstance(error, FileNotFoundError):
        return f"no {Path(error.filename).name}"
    return (str(error).splitlines() or [type(error).__name__])[0]


def plain_values(config: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """The leaves of a nested mapping as dotted names and values; a list is one value."""
    for name, value in config.items():
        if isinstance(value, dict) and value:
            yield from plain_values(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value
