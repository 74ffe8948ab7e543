"""A table in a terminal: no cell is ever broken; columns that do not fit beside the others stand below them."""

import textwrap
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import rich.box
import rich.table
from rich.cells import cell_len
from rich.console import Console, ConsoleOptions, RenderableType
from rich.measure import Measurement
from rich.text import Text

from diffx.compare.shown.cell import Table

MANY = 1000  # columns of a terminal wider than any


@dataclass(frozen=True)
class Printed:
    """A table for `console.print`. Text, not markup: a metric may be called [/red]."""

    table: Table

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> Iterator[RenderableType]:
        yield Text(self.table.title, style="bold")
        every = range(1, len(self.table.header))
        whole = self._draw(every, self.table.header)
        if _width(console, whole) <= options.max_width:
            yield whole
        else:
            header = [_wrap(name, self._widest(place)) for place, name in enumerate(self.table.header)]
            for part in self._parts(console, options.max_width, header):
                yield self._draw(part, header)
        yield Text(f"{self.table.note}\n" if self.table.note else "", style="dim")

    def _parts(self, console: Console, width: int, header: Sequence[str]) -> list[list[int]]:
        """The columns in tables that fit, each with the first column in front; a column that never fits stands
        alone."""
        parts: list[list[int]] = [[]]
        for place in range(1, len(header)):
            if parts[-1] and _width(console, self._draw([*parts[-1], place], header)) > width:
                parts.append([])
            parts[-1].append(place)
        return parts

    def _draw(self, places: Sequence[int], header: Sequence[str]) -> rich.table.Table:
        drawn = rich.table.Table(pad_edge=False, padding=(0, 1, 0, 0), box=rich.box.SIMPLE_HEAD)
        drawn.add_column(Text(header[0]), no_wrap=True)
        for place in places:
            drawn.add_column(Text(header[place]), justify="right", overflow="fold")
        for row in self.table.rows:
            drawn.add_row(*(Text(row[place]) for place in (0, *places)))
        return drawn

    def _widest(self, place: int) -> int:
        """Of a column's cells, in letters."""
        return max((cell_len(line) for row in self.table.rows for line in row[place].splitlines()), default=0)


def _width(console: Console, drawn: rich.table.Table) -> int:
    return Measurement.get(console, console.options.update(width=MANY), drawn).maximum


def _wrap(name: str, width: int) -> str:
    """A header over several lines, broken between words alone."""
    longest = max(map(cell_len, name.split()), default=1)
    return "\n".join(textwrap.wrap(name, max(width, longest), break_long_words=False, break_on_hyphens=False))
