"""Published numbers, drawn as marks beside runs of the same data, metric and model size, guidance off."""

import csv
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from diffx.compare.study import Study
from diffx.errors import DiffxError

COLUMNS = ("method", "size", "data", "metric", "value", "steps", "batch_size", "gpu_hours", "gpu", "protocol", "source")
SIZES = {"S": (384, 12), "B": (768, 12), "L": (1024, 24), "XL": (1152, 28)}  # (hidden_size, depth) of the DiT presets

REACH = 2.0  # marks lie at most this many times beyond the longest run


@dataclass(frozen=True)
class Mark:
    """One published number: where it lies on an axis, and who says so."""

    name: str
    value: float
    x: float
    source: str


def find_published() -> Path | None:
    """experiments/published.csv of the working directory, else of the checkout that diffx runs from."""
    places = (Path.cwd(), Path(__file__).resolve().parents[4])
    return next((file for place in places if (file := place / "experiments" / "published.csv").is_file()), None)


def read_published(file: Path | None) -> list[dict[str, str]]:
    """The rows of the table, none without one. Raises DiffxError when a row lacks a value or its source."""
    if file is None:
        return []
    with file.open(encoding="utf-8", newline="") as lines:
        table = csv.DictReader(lines)
        if lacking := [name for name in COLUMNS if name not in (table.fieldnames or [])]:
            raise DiffxError(f"{file} lacks the columns {', '.join(lacking)}.")
        rows = list(table)
    for number, row in enumerate(rows, start=2):
        missing = [name for name in ("method", "metric", "value", "source") if not row.get(name)]
        if missing:
            raise DiffxError(f"{file}, line {number}: {', '.join(missing)} is empty; every number needs its source.")
    return rows


def place_published(study: Study, metric: str) -> list[Mark]:
    """The published numbers that can stand beside these runs: same data, metric and size; for hours the same GPU."""
    run, settings = study.methods[0].runs[0], study.methods[0].settings
    gpu = str(run.facts["device"].get("name") or "")
    if settings.get("guidance.scale", 1.0) != 1.0 or not study.published:
        return []
    ours = (settings.get("data.name"), metric, name_size(settings))
    longest = max(getattr(row, study.axis) for row in study.points.rows)
    return [
        Mark(row["method"], float(row["value"]), x, row["source"])
        for row in study.published
        if (row["data"], row["metric"], row["size"]) == ours
        and (x := place_row(row, study.axis, run.unit)) is not None
        and x <= REACH * longest
        and (study.axis != "cost" or row["gpu"].lower() in gpu.lower())
    ]


def place_row(row: dict[str, str], axis: str, unit: str) -> float | None:
    """Where a row lies on one of AXES, None when the source does not say."""
    steps, batch = (float(row[name]) if row[name] else None for name in ("steps", "batch_size"))
    hours = float(row["gpu_hours"]) if row["gpu_hours"] and unit == "gpu_hours" else None
    images = steps * batch if steps and batch else None
    return {"step": steps, "images": images, "cost": hours, "train_flops": None}[axis]


def name_size(settings: dict[str, Any]) -> str:
    """XL/2 for the backbone of DiT-XL/2; empty for other sizes."""
    width, depth, patch = (settings.get(f"backbone.{name}") for name in ("hidden_size", "depth", "patch_size"))
    return next((f"{letter}/{patch}" for letter, shape in SIZES.items() if shape == (width, depth)), "")
