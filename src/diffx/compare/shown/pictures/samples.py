"""Samples of the methods side by side, over cost: every run draws the same noise and labels at each evaluation."""

import io
import math
import re
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from matplotlib.figure import Figure
from PIL import Image

from diffx.compare.shown.pictures.panel import write_label
from diffx.compare.shown.pictures.style import in_style
from diffx.compare.study import Study
from diffx.curves.method import Method
from diffx.curves.read import Run, read_bytes
from diffx.errors import DiffxError, clean_text
from diffx.plain import write_number

SHARES = (1 / 8, 1 / 4, 1 / 2, 1.0)  # of equal cost, at which pictures are shown
ACROSS, DOWN, COLUMNS = 4, 2, 10  # samples of a picture that are shown; a run's pictures have ten in a row
LONGEST_PROMPT = 150  # letters
LARGEST = 2**24  # pixels of a picture that is opened
SIDE, LINE = 1.55, 0.115  # inches of a picture's width, and of a line of words
STEP = re.compile(r"step_(\d+)\.png$")
SAID = "The same noise and labels in every picture; of each method's first seed, the last one up to each cost."


class Shown(NamedTuple):
    """A run's cost when it drew the samples, and they, (height, width, 3) in bytes."""

    cost: float
    pixels: np.ndarray


Rows = dict[str, list[Shown | None]]
"""By method."""


@in_style
def draw_samples(study: Study, rows: Rows) -> Figure:
    """A row a method, a column a share of equal cost. `rows`: what `list_rows` found, which is something."""
    filled = [place for place in range(len(SHARES)) if any(row[place] for row in rows.values())]
    prompts = list_prompts(study)
    below = LINE * len(prompts) + 0.05
    names = 0.2 + 0.062 * max(len(write_label(study, label)) for label in rows)
    tall = SIDE * DOWN / ACROSS + 0.2
    width, height = names + len(filled) * (SIDE + 0.1) + 0.1, len(rows) * tall + 0.3 + below
    figure = Figure(figsize=(width, height), dpi=150)
    axes = figure.subplots(len(rows), len(filled), squeeze=False)
    figure.subplots_adjust(left=names / width, right=1 - 0.1 / width, bottom=below / height,
                           top=1 - 0.4 / height, wspace=0.05, hspace=0.3)  # fmt: skip
    for line, (label, row) in zip(axes, rows.items(), strict=True):
        for axis, place in zip(line, filled, strict=True):
            axis.set_axis_off()
            if (one := row[place]) is not None:
                axis.imshow(one.pixels, interpolation="nearest")
                axis.set_title(f"{write_number(one.cost)} {study.unit_name}", fontsize=6.5, pad=2)
        line[0].text(-0.06, 0.5, write_label(study, label), transform=line[0].transAxes, ha="right", va="center",
                     fontsize=8)  # fmt: skip
    if prompts:
        listed = "\n".join(f"{place}. {words}" for place, words in enumerate(prompts, start=1))
        figure.text(0.1 / width, 0.04 / height, listed, fontsize=6, color="#444444", va="bottom")
    figure.text(0.1 / width, 1 - 0.17 / height, say_samples(prompts), fontsize=7, color="#444444")
    return figure


def say_samples(prompts: Sequence[str]) -> str:
    """How to read the samples."""
    return SAID.replace("labels", "prompts") if prompts else SAID


def list_prompts(study: Study) -> list[str]:
    """The prompts of the samples that are shown, row by row; none where classes condition the runs."""
    listed = study.methods[0].runs[0].facts.get("prompts")
    if not isinstance(listed, list):
        return []
    shown = [listed[i : i + ACROSS] for i in range(0, DOWN * COLUMNS, COLUMNS)]
    return [clean_text(str(words), LONGEST_PROMPT) for row in shown for words in row]


def list_rows(study: Study) -> Rows:
    """Each method's samples at each of SHARES; empty where fewer than two methods kept pictures, or none of them can
    be shown."""
    cost = study.results[0].equal_cost
    kept = {one.label: found for one in study.methods if (found := seed_pictures(one)) is not None}
    rows = {label: [pick(*found, share * cost) for share in SHARES] for label, found in kept.items()}
    return rows if len(rows) > 1 and any(any(row) for row in rows.values()) else {}


def seed_pictures(method: Method) -> tuple[Run, dict[int, Path]] | None:
    """The first seed that kept pictures, and they by step."""
    for run in method.runs:
        files = {int(found.group(1)): file for file in sorted((run.source.folder / "samples").glob("step_*.png"))
                 if (found := STEP.search(file.name))}  # fmt: skip
        if files:
            return run, files
    return None


def pick(run: Run, files: dict[int, Path], cost: float) -> Shown | None:
    """The first samples of the last picture up to a cost; None before the first, or if unreadable."""
    known = [point for point in run.points if point.step in files and point.cost <= cost * 1.02]
    if not known:
        return None
    pixels = read_corner(files[known[-1].step])
    return None if pixels is None else Shown(known[-1].cost, pixels)


def read_corner(file: Path) -> np.ndarray | None:
    """The first samples of a picture; a file that is no sound PNG of an ordinary size is left out."""
    try:
        with Image.open(io.BytesIO(read_bytes(file)), formats=["PNG"]) as picture:
            cell = picture.width / COLUMNS
            if math.prod(picture.size) > LARGEST or cell < 1:
                return None
            return np.asarray(picture.convert("RGB").crop((0, 0, round(ACROSS * cell), round(DOWN * cell))))
    except (DiffxError, OSError, ValueError, SyntaxError, Image.DecompressionBombError):
        return None
