"""How well what is seen in a picture agrees with what its prompt asks for."""

from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import permutations
from typing import Any

import numpy as np
from numpy.typing import NDArray

from diffx.data.captions.language import SYNONYMS, UNSAID, Asked, asked
from diffx.data.captions.scene import (
    COLOUR,
    COLOURS,
    MOST,
    SHAPE,
    SHAPES,
    UNSEEN_PAIRS,
    UNSEEN_RELATIONS,
)
from diffx.data.prompts import Prompt

WHAT = ("shape", "colour", "relation", "all", "all_unseen")

Share = tuple[float, float]
"""How much is right, and of how much."""


def agreement(wanted: Asked, row: int, objects: NDArray[np.int64]) -> dict[str, Share]:
    """Of a picture with these objects (n, 3), in a row (1) or a column (0), by WHAT:

    shape: of the shapes that are asked for, those that are there, each counted once.
    colour: of those that are asked for in a colour, those that are there in it.
    relation: whether the shapes that are there, and no others, stand as asked for, in their colours where those are
        said; of a prompt with no relation nothing is asked.
    all: whether everything is as asked for: number, shapes, colours, sizes, relation.
    all_unseen: the same, of prompts that ask for a composition that no training picture has.
    """
    coloured = wanted.objects[wanted.objects[:, COLOUR] != UNSAID]
    ordered = wanted.row != UNSAID
    everything = float(_fits(wanted, row, objects, (0, COLOUR, SHAPE)))
    any_asked = float(len(wanted.objects) > 0)
    return {
        "shape": (_found(wanted.objects[:, SHAPE:], objects[:, SHAPE:]), float(len(wanted.objects))),
        "colour": (_found(coloured[:, COLOUR:], objects[:, COLOUR:]), float(len(coloured))),
        "relation": (float(ordered and _fits(wanted, row, objects, (COLOUR, SHAPE))), float(ordered)),
        "all": (any_asked * everything, any_asked),
        "all_unseen": (everything, 1.0) if asks_unseen(wanted) else (0.0, 0.0),
    }


def asks_unseen(wanted: Asked) -> bool:
    """Whether a pair of colour and shape, or a relation, is asked for that no training picture has."""
    pairs = {tuple(one) for one in wanted.objects[:, COLOUR:].tolist()}
    shapes = wanted.objects[:, SHAPE].tolist()
    relations = {(wanted.row, a, b) for place, a in enumerate(shapes) for b in shapes[place + 1 :]}
    return bool(pairs & UNSEEN_PAIRS or relations & UNSEEN_RELATIONS)


def asked_by(prompt: Prompt) -> Asked:
    """What a prompt asks for: what its file says should be seen, or else its words."""
    return _included(prompt.include) if prompt.include else asked(prompt.words)


def _found(wanted: NDArray[np.int64], there: NDArray[np.int64]) -> float:
    """How many of the wanted rows are there, each of those that are there counted once."""
    both = Counter(map(tuple, wanted.tolist())) & Counter(map(tuple, there.tolist()))
    return float(both.total())


def _fits(wanted: Asked, row: int, objects: NDArray[np.int64], kinds: Sequence[int]) -> bool:
    """Whether the objects are as many as asked for and are so in these kinds, in the order where one is asked for."""
    if len(objects) != len(wanted.objects):
        return False
    if wanted.row not in (UNSAID, row):
        return False
    orders = [range(len(objects))] if wanted.row != UNSAID else permutations(range(len(objects)))
    said = wanted.objects[:, list(kinds)]
    return any(bool(((said == UNSAID) | (said == objects[list(order)][:, list(kinds)])).all()) for order in orders)


def _included(include: Sequence[Mapping[str, Any]]) -> Asked:
    """What GenEval's "include" asks for, of what scenes can be: classes, counts, colours, and of two objects the
    position of one relative to the other."""
    objects, row, turned = [], UNSAID, False
    for one in include:
        shape, colour = (SYNONYMS.get(str(one.get(key)), str(one.get(key))) for key in ("class", "color"))
        if shape in SHAPES:
            known = COLOURS.index(colour) if colour in COLOURS else UNSAID
            objects += [[UNSAID, known, SHAPES.index(shape)]] * int(one.get("count", 1))
        if (position := one.get("position")) and len(include) == 2:
            where, other = str(position[0]), int(position[1])
            row = 1 if where in ("left of", "right of") else 0
            turned = (where in ("left of", "above")) == (other == 0)
    found = objects[:MOST][::-1] if turned else objects[:MOST]
    return Asked(np.array(found, dtype=np.int64).reshape(-1, 3), row if len(found) == 2 else UNSAID)
