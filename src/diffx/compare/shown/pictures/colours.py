"""Colours and dashes of the methods, and the darker ones in which their names are written."""

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

from matplotlib.colors import to_hex, to_rgb

from diffx.curves.method import Method

# Okabe and Ito's colours, told apart with every common colour blindness; their black is left to the baseline.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#8C6D1F", "#7A4FB5")
DASHES = ("-", (0, (5, 1.5)), (0, (1.5, 1.2)), (0, (5, 1.2, 1.2, 1.2)))
BASELINE = "#222222"
CONTRAST = 4.5  # of small text on its ground, at least: WCAG 2.1, criterion 1.4.3


def choose_looks(methods: Sequence[Method], baseline: Method | None) -> dict[str, dict[str, Any]]:
    """Colour and dashes of each label: the baseline is black, the others keep one order in every picture of a study."""
    others = [one.label for one in methods if baseline is None or one.label != baseline.label]
    looks: dict[str, dict[str, Any]] = {
        label: {"color": COLOURS[n % len(COLOURS)], "linestyle": DASHES[n // len(COLOURS) % len(DASHES)]}
        for n, label in enumerate(others)
    }
    return looks if baseline is None else {**looks, baseline.label: {"color": BASELINE, "linestyle": "-"}}


@lru_cache(maxsize=64)
def darken(colour: str) -> str:
    """The colour as text on white: as much darker as its contrast needs, and no more."""
    red, green, blue = to_rgb(colour)
    shares = (share / 100 for share in range(100, -1, -1))
    shades = (to_hex((share * red, share * green, share * blue)) for share in shares)
    return next(shade for shade in shades if find_contrast(shade) >= CONTRAST)


def find_contrast(colour: str) -> float:
    """The contrast of a colour to white, from 1 to 21 (WCAG 2.1)."""
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in to_rgb(colour)]
    luminance = 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]
    return 1.05 / (luminance + 0.05)
