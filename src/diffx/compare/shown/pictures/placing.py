"""Texts beside the points that they belong to: inside the panel, and off the lines and each other where there is room.

A text never leaves its point: of the places around it, it takes the first that is free, else the one that covers least.
The name of a level may stand at one of several points of it.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg, RendererAgg
from matplotlib.path import Path
from matplotlib.patheffects import withStroke
from matplotlib.text import Text
from matplotlib.transforms import Bbox

HALO = [withStroke(linewidth=2.2, foreground="white")]
NEAR, FARTHER = 1.0, 2.2  # a place right beside the point, and one with a gap
# Places of a text: the side of it that faces the point, across (0 is its left, 1 its right) and up, and the way from
# the point to there, in points.
SIDES = [
    (across, up, step * x, step * y)
    for step in (NEAR, FARTHER)
    for across, up, x, y in (
        (0, 0, 3, 4), (1, 0, -3, 4), (1, 1, -3, -4), (0, 1, 3, -4),
        (0.5, 0, 0, 5), (0.5, 1, 0, -5), (0, 0.5, 6, 0), (1, 0.5, -6, 0),
    )
]  # fmt: skip
OUTSIDE, ON_TEXT, ON_LINE = 100, 10, 1  # what a place costs that leaves the panel, or covers a text or a line
MARKER = 3.5  # points from the middle of a ring or a mark to its edge
ALIGNED = {0: ("left", "bottom"), 0.5: ("center", "center"), 1: ("right", "top")}


class Name(NamedTuple):
    """A text, and the points that it may stand at, the best one first. One that is not `needed`, since the caption says
    it too, is left out where it would cover another or leave the panel."""

    points: tuple[tuple[float, float], ...]
    text: str
    colour: str
    size: float
    gid: str
    needed: bool = True


def place_texts(axis: Axes, texts: Sequence[Name], lines: Sequence[tuple[np.ndarray, np.ndarray]]) -> None:
    """Writes each text where it covers least; the first ones choose first.

    `lines`: positions along and up, (places,) each, in the axis's units.
    """
    axis.get_xlim(), axis.get_ylim()  # settles the limits, which positions depend on
    renderer = FigureCanvasAgg(axis.figure).get_renderer()  # type: ignore[arg-type]
    paths = [Path(axis.transData.transform(np.column_stack(line))) for line in lines]
    unit = axis.figure.dpi / 72
    taken = [surround(axis, one.points[0], MARKER * unit) for one in texts if len(one.points) == 1]
    for one in texts:
        size = measure_text(axis, one, renderer)
        places = [(point, side) for point in one.points for side in SIDES]
        boxes = [find_box(axis.transData.transform(point), side, size, unit) for point, side in places]
        costs = [count_covered(box, axis.bbox, taken, paths) for box in boxes]
        chosen = costs.index(min(costs))
        if costs[chosen] >= ON_TEXT and not one.needed:
            continue
        (point, (across, up, x, y)) = places[chosen]
        taken.append(boxes[chosen])
        axis.annotate(
            one.text, point, xytext=(x, y), textcoords="offset points", fontsize=one.size, color=one.colour,
            ha=ALIGNED[across][0], va=ALIGNED[up][1], gid=one.gid, zorder=8, path_effects=HALO,
        )  # fmt: skip


def surround(axis: Axes, point: tuple[float, float], reach: float) -> Bbox:
    """The pixels of a marker."""
    x, y = axis.transData.transform(point)
    return Bbox.from_extents(x - reach, y - reach, x + reach, y + reach)


def measure_text(axis: Axes, one: Name, renderer: RendererAgg) -> tuple[float, float]:
    """Width and height in pixels."""
    box = Text(0, 0, one.text, fontsize=one.size, figure=axis.figure).get_window_extent(renderer)
    return box.width, box.height


def find_box(
    point: np.ndarray, side: tuple[float, float, float, float], size: tuple[float, float], unit: float
) -> Bbox:
    """The pixels of a text on a side of a point; `unit`: pixels of a point."""
    across, up, x, y = side
    left, bottom = point[0] + x * unit - across * size[0], point[1] + y * unit - up * size[1]
    return Bbox.from_bounds(left, bottom, *size)


def count_covered(box: Bbox, panel: Bbox, taken: Sequence[Bbox], lines: Sequence[Path]) -> int:
    """What a text in the box would cover: a text is worse than a line, and to leave the panel is worst."""
    outside = box.x0 < panel.x0 or box.x1 > panel.x1 or box.y0 < panel.y0 or box.y1 > panel.y1
    texts, crossed = sum(box.overlaps(one) for one in taken), sum(line.intersects_bbox(box, False) for line in lines)
    return OUTSIDE * outside + ON_TEXT * texts + ON_LINE * crossed
