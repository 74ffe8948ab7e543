"""A table, and what stands in its cells: spreads, bounds, speed-ups and their intervals as text."""

import math
import statistics
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from diffx.compare.seeds import Speedup, Spread
from diffx.curves.curve import Reach
from diffx.curves.method import Method
from diffx.plain import NONE, escape_markdown, write_number


@dataclass(frozen=True)
class Table:
    """Title, header, rows of cells (the first is text, the others numbers) and a line that says how to read it."""

    title: str
    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    note: str = ""

    def markdown(self) -> str:
        """A GitHub-flavoured Markdown table under its title."""
        head = f"| {' | '.join(map(escape_table, self.header))} |"
        rule = "|---|" + "---:|" * (len(self.header) - 1)
        lines = [f"| {' | '.join(map(escape_table, row))} |" for row in self.rows]
        note = ["", escape_markdown(self.note)] if self.note else []
        return "\n".join([f"### {escape_markdown(self.title)}", "", head, rule, *lines, *note])


def escape_table(cell: str) -> str:
    return escape_markdown(cell).replace("|", "\\|").replace("\n", "<br>")


def take_middle(found: Iterable[Any]) -> float | None:
    known = [float(value) for value in found if value is not None]
    return statistics.median(known) if known else None


def take_greatest(found: Iterable[Any]) -> float | None:
    return max((float(value) for value in found if value is not None), default=None)


def count_lost(method: Method) -> str:
    """Behind a method's name or number of seeds: how many of them diverged."""
    return f" ({method.diverged} of {len(method.runs)} diverged)" if method.diverged else ""


def write_times(ratio: float | None) -> str:
    return NONE if ratio is None else f"{ratio:.2f}×"


def write_spread(one: Spread | None) -> str:
    if one is None:
        return NONE
    return f"{one.mean:.3g}" if one.count == 1 else f"{one.mean:.3g} [{one.low:.3g} – {one.high:.3g}]"


def write_bound(bound: str) -> str:
    return "" if bound == "=" else f"{bound} "


def write_reach(met: Reach, gain: Speedup | None) -> str:
    cost = f"{write_bound(met.bound)}{write_number(met.cost)}"
    if gain is None:
        return cost
    return f"{cost}\n{write_bound(gain.bound)}{gain.ratio:.3g}×{write_interval(gain.interval)}"


def write_interval(ends: tuple[float, float] | None) -> str:
    return "" if ends is None else f" [{'–'.join('∞' if math.isinf(end) else f'{end:.3g}' for end in ends)}]"
