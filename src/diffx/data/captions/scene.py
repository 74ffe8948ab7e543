"""Scenes: one to three shapes of a size, a colour and an outline, in a row or in a column.

Some compositions are held out: six pairs of colour and shape, and eight relations ("a circle left of a star", but not
its reverse). No training scene has one of them, so that what a model makes of a caption with one is not remembered.
"""

from typing import NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray

Pick = TypeVar("Pick")

SIZES = ("small", "large")
COLOURS = ("red", "green", "blue", "yellow", "purple", "orange")
SHAPES = ("circle", "square", "triangle", "star", "cross", "ring")
MOST = 3  # shapes in a scene
SIZE, COLOUR, SHAPE = 0, 1, 2  # columns of Scenes.objects
NONE = -1

UNSEEN_PAIRS = frozenset((colour, (colour + 2) % len(SHAPES)) for colour in range(len(COLOURS)))
"""(colour, shape): red triangles, green stars, blue crosses, yellow rings, purple circles and orange squares."""
UNSEEN_RELATIONS = frozenset(
    (row, SHAPES.index(first), SHAPES.index(second))
    for row, first, second in (
        (1, "circle", "star"),
        (1, "square", "ring"),
        (1, "triangle", "cross"),
        (1, "star", "square"),
        (0, "ring", "triangle"),
        (0, "cross", "circle"),
        (0, "star", "triangle"),
        (0, "square", "cross"),
    )
)
"""(1 in a row, 0 in a column; the shape on the left or above; the one on its right or below)."""

DRAWS = 16
"""Random numbers that a scene takes, some to spare."""


class Scenes(NamedTuple):
    """N scenes. number: (N,) shapes in each. row: (N,) 1 in a row from left to right, 0 in a column from top to bottom.
    objects: (N, 3, 3) of each shape in that order its size, colour and outline, and NONE behind the last."""

    number: NDArray[np.int64]
    row: NDArray[np.int64]
    objects: NDArray[np.int64]


def draw_scenes(uniforms: NDArray[np.float32], unseen: bool) -> Scenes:
    """Scenes from rows of random numbers (N, DRAWS) in [0, 1).

    unseen: each has a held-out composition, as often a pair as a relation; else none has one. A scene has one shape in
    a fifth of cases, two in three fifths; three shapes are small, so that they have room.
    """
    count = np.searchsorted([0.2, 0.8], uniforms[:, 0], side="right") + 1
    row = (uniforms[:, 1] < 0.5).astype(np.int64)
    objects = np.full((len(uniforms), MOST, 3), NONE)
    relation = unseen & (count > 1) & (uniforms[:, 2] < 0.5)
    for i, numbers in enumerate(uniforms):
        pairs = _pairs(count[i], row[i], numbers[3 : 3 + MOST])
        if relation[i]:
            pairs = _with_unseen_relation(pairs, row[i], numbers[6:9])
        elif unseen:
            place = int(numbers[6] * count[i])
            pairs[place] = _pick(sorted(UNSEEN_PAIRS), numbers[7])
        objects[i, : count[i], 1:] = pairs
        objects[i, : count[i], SIZE] = (numbers[10 : 10 + count[i]] < 0.5) & (count[i] < MOST)
    return Scenes(count, row, objects)


def has_unseen(scenes: Scenes) -> NDArray[np.bool_]:
    """(N,) whether a scene has a held-out pair or relation."""
    return np.array([_is_unseen(*one) for one in zip(*scenes, strict=True)], dtype=bool)


def _is_unseen(count: int, row: int, objects: NDArray[np.int64]) -> bool:
    pairs = [tuple(pair) for pair in objects[:count, 1:].tolist()]
    shapes = [shape for _, shape in pairs]
    relations = {(int(row), a, b) for place, a in enumerate(shapes) for b in shapes[place + 1 :]}
    return bool(UNSEEN_PAIRS & set(pairs) or UNSEEN_RELATIONS & relations)


def _pairs(count: int, row: int, numbers: NDArray[np.float32]) -> list[tuple[int, int]]:
    """Colour and shape of each object, such that no composition is a held-out one."""
    chosen: list[tuple[int, int]] = []
    for number in numbers[:count]:
        chosen.append(_pick(_allowed(row, [shape for _, shape in chosen]), number))
    return chosen


def _with_unseen_relation(
    pairs: list[tuple[int, int]], row: int, numbers: NDArray[np.float32]
) -> list[tuple[int, int]]:
    """The first two objects in a held-out relation, in colours that are known of their shapes."""
    _, *shapes = _pick(sorted(one for one in UNSEEN_RELATIONS if one[0] == row), numbers[0])
    known = [[pair for pair in _PAIRS if pair[1] == shape] for shape in shapes]
    return [*(_pick(some, number) for some, number in zip(known, numbers[1:], strict=True)), *pairs[2:]]


_PAIRS = [
    (colour, shape)
    for colour in range(len(COLOURS))
    for shape in range(len(SHAPES))
    if (colour, shape) not in UNSEEN_PAIRS
]


def _allowed(row: int, before: list[int]) -> list[tuple[int, int]]:
    """The pairs that may stand behind these shapes."""
    return [pair for pair in _PAIRS if not any((row, shape, pair[1]) in UNSEEN_RELATIONS for shape in before)]


def _pick(some: list[Pick], number: float) -> Pick:
    """One of several, by a number in [0, 1)."""
    return some[int(number * len(some))]
