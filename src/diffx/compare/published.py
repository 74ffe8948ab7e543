"""Published numbers, drawn as marks beside runs of the same data, metric and model size, guidance off."""

import csv
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from diffx.compare.group import Method
from diffx.compare.read import AXES
from diffx.errors import DiffxError

COLUMNS = ("method", "size", "data", "metric", "value", "steps", "batch_size", "gpu_hours", "gpu", "protocol", "source")
SIZES = {(384, 12): "S", (768, 12): "B", (1024, 24): "L", (1152, 28): "XL"}  # (hidden_size, depth) of the DiT presets

REACH = 2.0  # marks lie at most this many times beyond the longest run


@dataclass(frozen=True)
class Mark:
    """One published number: where it lies on an axis, and who says so."""

    name: str
    value: float
    x: float
    source: str


def table_of_published() -> Path | None:
    """experiments/published.csv of the working directory, else of the checkout that diffx runs from."""
    places = (Path.cwd(), Path(__file__).resolve().parents[3])
    return next((file for place in places if (file := place / "experiments" / "published.csv").is_file()), None)


def read_published(file: Path) -> list[dict[str, str]]:
    """The rows of the table. Raises DiffxError when a row lacks a value or its source."""
    with file.open(encoding="utf-8", newline="") as lines:
        rows = list(csv.DictReader(lines))
    for number, row in enumerate(rows, start=2):
        missing = [name for name in ("method", "metric", "value", "source") if not row.get(name)]
        if missing:
            raise DiffxError(f"{file}, line {number}: {', '.join(missing)} is empty; every number needs its source.")
    return rows


def marks(rows: Sequence[dict[str, str]], methods: Sequence[Method], metric: str, axis: str) -> list[Mark]:
    """The published numbers that can stand beside these runs: same data, metric and size; for hours the same GPU."""
    run = methods[0].runs[0]
    data, size = (run.config.get("data") or {}).get("name"), size_of(run.config)
    gpu = (run.facts.get("device") or {}).get("name") or ""
    if ((run.config.get("guidance") or {}).get("scale") or 1.0) != 1.0:
        return []
    fitting = [row for row in rows if (row["data"], row["metric"], row["size"]) == (data, metric, size)]
    longest = max(getattr(run.points[-1], axis) for method in methods for run in method.runs)
    found = []
    for row in fitting:
        x = position(row, axis, run.unit)
        if x is not None and x <= REACH * longest and (axis != "cost" or row["gpu"].lower() in gpu.lower()):
            found.append(Mark(row["method"], float(row["value"]), x, row["source"]))
    return found


def position(row: dict[str, str], axis: str, unit: str) -> float | None:
    """Where a row lies on one of AXES, None when the source does not say."""
    if axis not in AXES:
        raise DiffxError(f"axis={axis} is not known; type one of {', '.join(AXES)}.")
    steps, batch = (float(row[name]) if row[name] else None for name in ("steps", "batch_size"))
    hours = float(row["gpu_hours"]) if row["gpu_hours"] and unit == "gpu_hours" else None
    images = steps * batch if steps and batch else None
    return {"step": steps, "images": images, "cost": hours, "train_flops": None}[axis]


def size_of(config: dict[str, Any]) -> str:
    """XL/2 for the backbone of DiT-XL/2; empty for other sizes."""
    backbone = config.get("backbone") or {}
    letter = SIZES.get((backbone.get("hidden_size", 0), backbone.get("depth", 0)))
    return f"{letter}/{backbone.get('patch_size')}" if letter else ""
