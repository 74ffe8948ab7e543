"""Numbers and strangers' text as a reader can take them: short, and unable to do anything where they are shown."""

import re
from collections.abc import Iterable
from typing import Any, TypeVar

from diffx.errors import clean_text

T = TypeVar("T")
V = TypeVar("V")
PREFIXES = ((1e18, "E"), (1e15, "P"), (1e12, "T"), (1e9, "G"), (1e6, "M"), (1e4, "k"))
NONE = "–"
DEEPEST = 20  # levels of a mapping that a run may bring
FORMULA = ("=", "+", "-", "@", "\t", "\r")  # with these a spreadsheet begins to compute


def write_number(value: float | None, unit: str = "") -> str:
    """12345 as 12.3k, 0.00123 as 0.00123, None as a dash; the prefixes are powers of 1000."""
    if value is None:
        return NONE
    for size, prefix in PREFIXES:
        if abs(value) >= size:
            scale = 1e3 if prefix == "k" else size
            return f"{value / scale:.3g}{prefix}{unit}"
    return f"{value:.4g}{unit}" if abs(value) >= 1000 else f"{value:.3g}{unit}"


def write_value(value: Any) -> str:
    """A setting's value as text."""
    return f"{value:g}" if is_number(value) else str(value).replace("'", "")


def is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def join(names: Iterable[str]) -> str:
    """a, b and c"""
    *most, last = names
    return f"{', '.join(most)} and {last}" if most else last


def group(pairs: Iterable[tuple[T, V]]) -> dict[V, list[T]]:
    """Things by what they have: (a, 1), (b, 2) and (c, 1) as 1: a, c and 2: b."""
    found: dict[V, list[T]] = {}
    for one, value in pairs:
        found.setdefault(value, []).append(one)
    return found


def shorten(text: str, longest: int) -> str:
    """Text of at most so many letters, the last an ellipsis where some are left out."""
    return text if len(text) <= longest else f"{text[: longest - 1]}…"


def clean(value: Any, depth: int = 0) -> Any:
    """A value read from JSON or YAML with all its text cleaned; what lies deeper than any real setting is cut off."""
    if isinstance(value, str):
        return clean_text(value)
    if depth >= DEEPEST and isinstance(value, dict | list):
        return "…"
    if isinstance(value, dict):
        return {clean_text(str(name)): clean(one, depth + 1) for name, one in value.items()}
    if isinstance(value, list | tuple):
        return [clean(one, depth + 1) for one in value]
    return value


def escape_markdown(text: str) -> str:
    """Text that Markdown shows as it is: no HTML, no links or pictures."""
    return re.sub(r"\](?=[(\[])", r"]\\", text.replace("<", "&lt;"))


def escape_cell(text: str) -> str:
    """A cell of a CSV that a spreadsheet does not compute: an apostrophe before what begins a formula."""
    return f"'{text}" if text.startswith(FORMULA) and len(text) > 1 else text
