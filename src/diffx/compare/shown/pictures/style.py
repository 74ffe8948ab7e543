"""How every picture looks: fonts, headings, ticks and files; and the colours and dashes of the methods, with the darker
ones in which their names are written."""

import math
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.colors import to_hex, to_rgb
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter

from diffx.curves.method import Method
from diffx.plain import write_number
from diffx.store.whole_file import replaced

PANEL = (3.5, 2.95)  # inches of a panel, without what stands around it
STYLE: Any = {
    "font.family": "DejaVu Sans",
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.linewidth": 0.8,
    "text.parse_math": False,
    "svg.fonttype": "none",
    "svg.hashsalt": "diffx",
}
in_style = matplotlib.rc_context(STYLE)
"""Decorates what draws or writes a picture."""

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


def write_heading(axis: Axes, title: str, subtitle: str) -> None:
    """What stands above a panel."""
    axis.set_title(title, loc="left", fontsize=10, fontweight="bold", pad=14)
    axis.text(0, 1.02, subtitle, transform=axis.transAxes, fontsize=7.5, color="#666666")


def draw_grid(axis: Axes) -> None:
    """Behind everything else."""
    axis.grid(True, color="#E6E6E6", linewidth=0.6)
    axis.set_axisbelow(True)


DIGITS = ((2.5, (1.0,)), (0.8, (1.0, 2.0, 5.0)), (0.0, (1.0, 2.0, 3.0, 5.0, 7.0)))  # from so many decades on


def set_ticks(axis: Axes) -> None:
    """Plain numbers on both log axes, with more of them when the range is short: side by side they need more room."""
    inches = (axis.bbox.width / axis.figure.dpi, axis.bbox.height / axis.figure.dpi)
    for side, limits, usual, shortest, size, room in (
        (axis.xaxis, axis.get_xlim(), PANEL[0], 0.35, inches[0], 0.6),
        (axis.yaxis, axis.get_ylim(), PANEL[1], 0.8, inches[1], 0.35),
    ):
        if side.get_scale() != "log":
            continue
        decades = math.log10(limits[1] / limits[0])
        shown = decades / min(size / usual, 1.0)  # what the same letters make of it on a smaller panel
        digits = next(digits for least, digits in DIGITS if shown > least)
        inside = [d for d in digits for k in range(-30, 30) if limits[0] <= d * 10.0**k <= limits[1]]
        if shown > shortest and len(inside) > 1:
            side.set_major_locator(LogLocator(base=10, subs=digits, numticks=12))
        else:
            side.set_major_locator(MaxNLocator(max(2, int(size / room)), steps=[1, 2, 5, 10]))
        side.set_major_formatter(FuncFormatter(lambda value, _: write_number(value)))
        side.set_minor_formatter(NullFormatter())


@in_style
def save(figure: Figure, folder: Path, name: str, suffixes: Sequence[str] = ("png", "svg")) -> list[Path]:
    """Writes NAME.png and NAME.svg, each complete or not at all."""
    written = []
    for suffix in suffixes:
        path = folder / f"{name}.{suffix}"
        with replaced(path) as temporary:
            figure.savefig(temporary, format=suffix, metadata={"Date": None} if suffix == "svg" else None)
        written.append(path)
    return written
