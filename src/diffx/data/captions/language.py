"""The language of captions: what is said of a scene, which words there are, and what a caption asks for."""

import re
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from diffx.data.captions.scene import COLOURS, MOST, NONE, SHAPES, SIZES
from diffx.errors import DiffxError

LENGTH = 24
"""Tokens of a caption, the end included."""

SYNONYMS = {"little": "small", "big": "large", "violet": "purple", "disc": "circle", "plus": "cross"}
OPENINGS = ("", "", "a picture of", "there is", "an image with")
IN_ORDER = {1: ("left of", "to the left of"), 0: ("above", "over")}
REVERSED = {1: ("right of", "to the right of"), 0: ("below", "under")}
LISTED = {1: "from left to right", 0: "from top to bottom"}

_OTHERS = "a an and above below bottom from image in is left of over picture right the there to top under with"
WORDS = tuple(sorted({*SIZES, *COLOURS, *SHAPES, *SYNONYMS, *_OTHERS.split()}))
PADDING, END = 0, 1
"""Tokens that are no words; those of words follow."""

VOCABULARY = 2 + len(WORDS)
_IDS = {word: place for place, word in enumerate(WORDS, start=2)}

UNSAID = NONE


class Asked(NamedTuple):
    """What a caption asks for. objects: (n, 3) of each shape its size, colour and outline, UNSAID where that is open.
    row: 1 or 0, as of a scene, the objects in its order; UNSAID: in any."""

    objects: NDArray[np.int64]
    row: int


def caption(count: int, row: int, objects: NDArray[np.int64], numbers: NDArray[np.float32]) -> str:
    """What is said of a scene, by random numbers (16,) in [0, 1): with synonyms, in one of several orders, and now and
    then without a size (in a third of cases), a colour or the relation (in a tenth)."""
    said = [_noun(one, numbers[3 * k : 3 * k + 3]) for k, one in enumerate(objects[:count])]
    opening, how, order = numbers[9], numbers[10], numbers[11]
    text = said[0]
    if count > 1 and how < 0.1:
        text = _listed(said if order < 0.5 else said[::-1])
    elif count > 1 and how < 0.3:
        text = f"{_listed(said)} {LISTED[row]}"
    elif count > 1:
        forward = how < 0.65
        words = IN_ORDER if forward else REVERSED
        text = f" {_one_of(words[row], order)} ".join(said if forward else said[::-1])
    return f"{_one_of(OPENINGS, opening)} {text}".strip()


def _noun(one: NDArray[np.int64], numbers: NDArray[np.float32]) -> str:
    size, colour, shape = SIZES[one[0]], COLOURS[one[1]], SHAPES[one[2]]
    words = [*([size] if numbers[0] < 0.65 else []), *([colour] if numbers[1] < 0.9 else []), shape]
    said = {word: other for other, word in SYNONYMS.items()}
    words = [said[word] if word in said and numbers[2] < 0.25 else word for word in words]
    return f"{'an' if words[0] == 'orange' else 'a'} {' '.join(words)}"


def _listed(said: Sequence[str]) -> str:
    return ", ".join(said[:-1]) + f" and {said[-1]}"


def _one_of(some: Sequence[str], number: float) -> str:
    return some[int(number * len(some))]


def tokens(prompts: Sequence[str]) -> NDArray[np.int64]:
    """(N, LENGTH): words, the end, and padding. The empty prompt is an end alone.

    Raises:
        DiffxError: names the first prompt that has a word that is not known, or that is too long; none is cut.
    """
    rows = np.full((len(prompts), LENGTH), PADDING)
    for row, prompt in zip(rows, prompts, strict=True):
        words = split(prompt)
        if unknown := [word for word in words if word not in _IDS]:
            raise DiffxError(
                f"The prompt {prompt!r} has {', '.join(map(repr, dict.fromkeys(unknown)))}, and the encoder of "
                f"data=captions knows {len(WORDS)} words: {', '.join(WORDS)}."
            )
        if len(words) >= LENGTH:
            raise DiffxError(
                f"The prompt {prompt!r} has {len(words)} words, and the encoder of data=captions takes {LENGTH - 1}; "
                "type a shorter one."
            )
        row[: len(words) + 1] = [*(_IDS[word] for word in words), END]
    return rows


def split(prompt: str) -> list[str]:
    """Words in lower case, without marks."""
    return re.findall(r"[^\s,.;:!?\"]+", prompt.lower())


def asked(prompt: str) -> Asked:
    """What a prompt asks for, of what scenes can be; what it says beyond that is left out."""
    objects: list[list[int]] = []
    current = [UNSAID] * 3
    words = [SYNONYMS.get(word, word) for word in split(prompt)]
    for word in words:
        for kind, names in enumerate((SIZES, COLOURS, SHAPES)):
            if word in names:
                current[kind] = names.index(word)
        if word in SHAPES:
            objects.append(current)
            current = [UNSAID] * 3
    row, forward = _relation(words)
    found = objects[:MOST] if forward else objects[:MOST][::-1]
    return Asked(np.array(found, dtype=np.int64).reshape(-1, 3), row if len(found) > 1 else UNSAID)


def spoken(prompt: str) -> list[tuple[int, int]]:
    """Of each shape in the order of speaking, the place of its word among the prompt's, and its own in asked()."""
    words = [SYNONYMS.get(word, word) for word in split(prompt)]
    said = [place for place, word in enumerate(words) if word in SHAPES][:MOST]
    forward = _relation(words)[1]
    return [(place, order if forward else len(said) - 1 - order) for order, place in enumerate(said)]


def _relation(words: Sequence[str]) -> tuple[int, bool]:
    """In a row or a column, and whether objects are named in the scene's order; UNSAID also where two are mixed."""
    text = f" {' '.join(words)} "
    for row, phrase in LISTED.items():
        if f" {phrase} " in text:
            return row, True
    marks = {" left of ": (1, True), " right of ": (1, False), " above ": (0, True), " over ": (0, True)}
    marks |= {" below ": (0, False), " under ": (0, False)}
    said = {meant for mark, meant in marks.items() if mark in text}
    return said.pop() if len(said) == 1 else (UNSAID, True)
