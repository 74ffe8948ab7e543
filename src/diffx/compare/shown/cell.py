"""A table for Markdown, the terminal and the page; and what stands in its cells: spreads, bounds, speed-ups and their
intervals as text."""

import math
import textwrap
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import rich.box
import rich.table
from rich.cells import cell_len
from rich.console import Console, ConsoleOptions, RenderableType
from rich.measure import Measurement
from rich.text import Text

from diffx.curves.curve import Reach
from diffx.curves.method import Method
from diffx.curves.seeds import Speedup, Spread
from diffx.plain import NONE, escape_markdown, write_number

MANY = 1000  # columns of a terminal wider than any


@dataclass(frozen=True)
class Table:
    """Title, header, rows of cells (the first is text, the others numbers) and a line that says how to read it.

    In a terminal no cell is ever broken; columns that do not fit beside the others stand below them.
    """

    title: str
    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    note: str = ""

    def markdown(self) -> str:
        """A GitHub-flavoured Markdown table under its title."""
        rule = "|---|" + "---:|" * (len(self.header) - 1)
        head, *lines = (f"| {' | '.join(map(escape_table, row))} |" for row in (self.header, *self.rows))
        note = ["", escape_markdown(self.note)] if self.note else []
        return "\n".join([f"### {escape_markdown(self.title)}", "", head, rule, *lines, *note])

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> Iterator[RenderableType]:
        yield Text(self.title, style="bold")
        parts, header = [list(range(1, len(self.header)))], self.header
        if not self._fits(parts[0], header, console, options):
            parts, header = [[]], tuple(self._wrap(place) for place in range(len(self.header)))
            for place in range(1, len(header)):
                if parts[-1] and not self._fits([*parts[-1], place], header, console, options):
                    parts.append([])
                parts[-1].append(place)
        yield from (self._draw(places, header) for places in parts)
        yield Text(f"{self.note}\n" if self.note else "", style="dim")

    def _draw(self, places: Sequence[int], header: Sequence[str]) -> rich.table.Table:
        """Some of the columns, the first one in front. Text, not markup: a metric may be called [/red]."""
        drawn = rich.table.Table(pad_edge=False, padding=(0, 1, 0, 0), box=rich.box.SIMPLE_HEAD)
        drawn.add_column(Text(header[0]), no_wrap=True)
        for place in places:
            drawn.add_column(Text(header[place]), justify="right", overflow="fold")
        for row in self.rows:
            drawn.add_row(*(Text(row[place]) for place in (0, *places)))
        return drawn

    def _fits(self, places: Sequence[int], header: Sequence[str], console: Console, options: ConsoleOptions) -> bool:
        drawn = self._draw(places, header)
        return Measurement.get(console, options.update(width=MANY), drawn).maximum <= options.max_width

    def _wrap(self, place: int) -> str:
        """A header over several lines, broken between words alone, where it is wider than its cells."""
        cells = max((cell_len(line) for row in self.rows for line in row[place].splitlines()), default=0)
        width = max(cells, *map(cell_len, self.header[place].split()), 1)
        return "\n".join(textwrap.wrap(self.header[place], width, break_long_words=False, break_on_hyphens=False))


def escape_table(cell: str) -> str:
    return escape_markdown(cell).replace("|", "\\|").replace("\n", "<br>")


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
