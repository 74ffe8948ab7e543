"""Where the names of lines and the factors of rings stand, so that none covers another or a foreign line."""

from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.patheffects import withStroke

LINE = 10.5  # points between labels
LETTER = 5.0  # points that a letter of an 8-point label takes, on the wide side
HALO = [withStroke(linewidth=2.2, foreground="white")]


class Line(NamedTuple):
    """A drawn line and its name."""

    name: str
    colour: str
    x: np.ndarray
    y: np.ndarray


class Ring(NamedTuple):
    """Where a method meets the baseline's final value, and how much sooner."""

    x: float
    text: str
    colour: str


class Box(NamedTuple):
    """A label's place in points from the panel's lower left corner."""

    left: float
    bottom: float
    right: float
    top: float

    def covered(self, points: np.ndarray) -> int:
        """How many of the points (n, 2) lie inside."""
        x, y = points.T
        return int(((self.left < x) & (x < self.right) & (self.bottom < y) & (y < self.top)).sum())

    def meets(self, other: "Box") -> bool:
        across = self.left < other.right and other.left < self.right
        return across and self.bottom < other.top and other.bottom < self.top


def end_labels(axis: Axes, lines: Sequence[Line], taken: Sequence[Box]) -> None:
    """The name of each line at its end where there is room, else right of the panel, tied to the line."""
    paths = [points(axis, line.x, line.y) for line in lines]
    used = list(taken)
    outside = []
    for place, (line, path) in enumerate(zip(lines, paths, strict=True)):
        others = together(other for at, other in enumerate(paths) if at != place)
        places = beside(path[-1], line.name) if path[-1][0] < 0.92 * panel_width(axis) else ()
        box = next((box for box in places if clear(axis, box, others, used)), None)
        if box is None:
            outside.append(line)
            continue
        used.append(box)
        write(axis, box, line.name, line.colour)
    right_of(axis, outside)


def beside(end: np.ndarray, name: str) -> Iterator[Box]:
    """Places for a name at a line's end: right of it, below it, above it."""
    wide = LETTER * len(name)
    x, y = end
    for left, bottom in ((x + 5, y - 5), (x - 0.5 * wide, y - 16), (x - wide, y - 16), (x - 0.3 * wide, y + 5)):
        yield Box(left, bottom, left + wide, bottom + 10)


def write(axis: Axes, box: Box, text: str, colour: str, **font: Any) -> None:
    """A label in its box, with a white rim."""
    middle = (box.left / panel_width(axis), (box.bottom + 5) / points_high(axis))
    axis.annotate(text, middle, xycoords="axes fraction", va="center", color=colour, path_effects=HALO,
                  zorder=8, **{"fontsize": 8, **font})  # fmt: skip


def clear(axis: Axes, box: Box, lines: np.ndarray, taken: Sequence[Box]) -> bool:
    """Whether a label may stand there: inside the panel, on no line and no other label."""
    inside_panel = box.left > 0 and box.right < panel_width(axis) - 4 and box.bottom > 0 and box.top < points_high(axis)
    wider = Box(box.left - 2, box.bottom - 1, box.right + 2, box.top + 1)
    return inside_panel and not wider.covered(lines) and not any(wider.meets(other) for other in taken)


def right_of(axis: Axes, lines: Sequence[Line]) -> None:
    """Names right of the panel in the lines' colours, moved apart where lines end together, each tied to its line."""
    ends = [(line.x[-1], line.y[-1]) for line in lines]
    heights = apart([float(inside(axis, *end)[1]) for end in ends], LINE / points_high(axis))
    for line, end, at in zip(lines, ends, heights, strict=True):
        axis.annotate(
            line.name, end, xytext=(1.03, at), textcoords="axes fraction", fontsize=8, va="center",
            color=line.colour, annotation_clip=False,
            arrowprops={"arrowstyle": "-", "color": line.colour, "linewidth": 0.6, "alpha": 0.7,
                        "shrinkA": 1, "relpos": (0, 0.5), "shrinkB": 2},
        )  # fmt: skip


def ring_labels(axis: Axes, rings: Sequence[Ring], height: float, lines: Sequence[Line]) -> list[Box]:
    """The factor of each ring right above it or left below it, where a falling line leaves room, off other lines."""
    paths = together(points(axis, line.x, line.y) for line in lines)
    taken: list[Box] = []
    for ring in sorted(rings, key=lambda ring: ring.x):
        x, y = points(axis, np.array([ring.x]), np.array([height]))[0]
        wide = LETTER * len(ring.text) + 2
        corners = [(x + 2, y + 4), (x - wide - 1, y - 14), (x - wide / 2, y - 15), (x + 6, y + 9), (x - wide, y + 5)]
        boxes = [Box(left, bottom, left + wide, bottom + 10) for left, bottom in corners]
        taken.append(freest(axis, boxes, paths, taken))
        write(axis, taken[-1], ring.text, ring.colour, fontweight="bold")
    return taken


def ring_boxes(axis: Axes, rings: Sequence[Ring], height: float) -> list[Box]:
    """What the rings themselves cover."""
    centres = points(axis, np.array([ring.x for ring in rings]), np.full(len(rings), height))
    return [Box(x - 4, y - 4, x + 4, y + 4) for x, y in centres]


def crowded(axis: Axes, rings: Sequence[Ring], height: float) -> bool:
    """Whether rings stand too close together for a label each."""
    places = points(axis, np.array(sorted(ring.x for ring in rings)), np.full(len(rings), height))[:, 0]
    return bool((np.diff(places) < 4 * LETTER).any())


def level_name(axis: Axes, text: str, height: float, lines: Sequence[Line], taken: Sequence[Box]) -> Box:
    """The name of a level below or above it, as far left as there is room."""
    paths = together(points(axis, line.x, line.y) for line in lines)
    y = float(inside(axis, axis.get_xlim()[0], height)[1]) * points_high(axis)
    wide = 3.9 * len(text)
    corners = [
        (left, bottom) for left in np.linspace(2, panel_width(axis) - wide - 2, 7) for bottom in (y - 11, y + 1.5)
    ]
    box = freest(axis, [Box(left, bottom, left + wide, bottom + 10) for left, bottom in corners], paths, taken)
    write(axis, box, text, "#666666", fontsize=7)
    return box


def freest(axis: Axes, boxes: Sequence[Box], lines: np.ndarray, taken: Sequence[Box]) -> Box:
    """The place that covers least of the lines; another label counts as much as a line of its width, or the edge."""

    def cost(box: Box) -> float:
        edge = box.left < 0 or box.bottom < 0 or box.right > panel_width(axis)
        shared = sum(max(0.0, min(box.right, o.right) - max(box.left, o.left)) for o in taken if box.meets(o))
        return box.covered(lines) + 2 * shared + 1000 * edge

    return min(boxes, key=cost)


def together(paths: Iterable[np.ndarray]) -> np.ndarray:
    """Points of several lines, close enough together that no label is crossed unseen."""
    return np.concatenate([np.empty((0, 2)), *(dense(path) for path in paths)])


def points(axis: Axes, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Positions (n, 2) in points from the panel's lower left corner."""
    axis.get_xlim(), axis.get_ylim()  # settles the limits, which the positions depend on
    return axis.transAxes.inverted().transform(axis.transData.transform(np.stack([x, y], 1))) * size(axis)


def dense(path: np.ndarray) -> np.ndarray:
    """A line's points, one in each point (1/72 inch) of its length."""
    lengths = np.concatenate([[0.0], np.cumsum(np.hypot(*np.diff(path, axis=0).T))])
    steps = np.arange(0, lengths[-1] + 1e-9)
    return np.stack([np.interp(steps, lengths, path[:, 0]), np.interp(steps, lengths, path[:, 1])], 1)


def inside(axis: Axes, x: float, y: float) -> np.ndarray:
    """A point in fractions of the panel."""
    return axis.transAxes.inverted().transform(axis.transData.transform((x, y)))


def size(axis: Axes) -> np.ndarray:
    return np.array([panel_width(axis), points_high(axis)])


def panel_width(axis: Axes) -> float:
    return axis.bbox.width * 72 / axis.figure.dpi


def points_high(axis: Axes) -> float:
    """The panel's height in points (1/72 inch)."""
    return axis.bbox.height * 72 / axis.figure.dpi


def apart(wanted: Sequence[float], gap: float, limits: tuple[float, float] = (0.0, 1.0)) -> list[float]:
    """Moves heights apart so that neighbours are at least `gap` away; groups stay around their mean, within limits."""
    order = sorted(range(len(wanted)), key=lambda place: wanted[place])
    blocks: list[list[int]] = []

    def bottom(block: Sequence[int]) -> float:
        high = gap * (len(block) - 1)
        centred = sum(wanted[place] for place in block) / len(block) - high / 2
        return max(limits[0], min(centred, limits[1] - high))

    for place in order:
        blocks.append([place])
        while len(blocks) > 1 and bottom(blocks[-1]) < bottom(blocks[-2]) + gap * len(blocks[-2]):
            last = blocks.pop()
            blocks[-1] = blocks[-1] + last
    placed = list(wanted)
    for block in blocks:
        for rank, place in enumerate(block):
            placed[place] = bottom(block) + rank * gap
    return placed
