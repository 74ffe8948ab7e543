"""All runs of a sweep in one table of a terminal, which is drawn over; what runs say scrolls by above it."""

import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import timedelta
from types import TracebackType

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from diffx.run.forecast import Left
from diffx.run.screen import Moment, read_record
from diffx.run.sink import COUNT

FEWEST = 5  # rows, in the lowest terminal
ORDER = ("running", "failed", "done", "waiting")  # of what is left out last


@dataclass
class Row:
    """One run: running, waiting, done or failed; when it began and ended, in seconds of a clock."""

    state: str = "waiting"
    moment: Moment | None = None
    begun: float = 0.0
    ended: float = 0.0


class SweepTable:
    """A context in which the table is on the screen.

    Args:
        names: of the runs, in their order.
        at_a_time: how many train at once.
    """

    def __init__(self, names: Sequence[str], at_a_time: int, console: Console) -> None:
        self.rows = {name: Row() for name in names}
        self.at_a_time, self.console = at_a_time, console
        self._live = Live(console=console, get_renderable=self.draw, refresh_per_second=2, vertical_overflow="crop")

    def __enter__(self) -> "SweepTable":
        self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._live.stop()

    def begin(self, name: str) -> None:
        self.rows[name].state, self.rows[name].begun = "running", time.monotonic()

    def hear(self, name: str, line: str) -> None:
        """A line of a run's output: how far it is, or something that is shown as it is."""
        moment = read_record(line)
        if moment is None:
            self.console.print(Text(f"[{name}] {line.rstrip()}"), soft_wrap=True)
        else:
            before = self.rows[name].moment
            self.rows[name].moment = replace(moment, losses=moment.losses or (before.losses if before else {}))

    def end(self, name: str, failed: bool) -> None:
        self.rows[name].state, self.rows[name].ended = "failed" if failed else "done", time.monotonic()

    def draw(self) -> Table:
        """The table as it is now, as many rows as half of the terminal holds."""
        table = Table(box=SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False, caption=self.summary())
        table.add_column("run", no_wrap=True, overflow="ellipsis")
        table.add_column("trained", width=10)
        for name in ("step", "loss", self._metric(), "left"):
            table.add_column(name, justify="right", no_wrap=True)
        shown = self._shown()
        for name, row in self.rows.items():
            if name in shown:
                table.add_row(name, *self._cells(row))
        return table

    def summary(self) -> str:
        """How many runs are done, and about how long the rest takes."""
        counts = Counter(row.state for row in self.rows.values())
        said = [f"{counts[state]} {state}" for state in ("running", "waiting", "done", "failed") if counts[state]]
        left = self.seconds_left()
        said += [f"about {timedelta(seconds=round(left))} left"] if left else []
        return " · ".join(said)

    def seconds_left(self) -> float | None:
        """Of wall-clock time, if runs that wait take as long as the others; None while nothing tells."""
        now = time.monotonic()
        running = [self._left(row) for row in self.rows.values() if row.state == "running"]
        whole = [row.ended - row.begun for row in self.rows.values() if row.state == "done"]
        begun = [now - row.begun for row in self.rows.values() if row.state == "running"]
        whole += [past + left for past, left in zip(begun, running, strict=True) if left is not None]
        waiting = sum(row.state == "waiting" for row in self.rows.values())
        if not whole or None in running:
            return None
        work = sum(left for left in running if left is not None) + waiting * sum(whole) / len(whole)
        return max([work / self.at_a_time, *(left for left in running if left is not None)])

    def _left(self, row: Row) -> float | None:
        """None while the evaluations to come have not been timed."""
        return None if row.moment is None or row.moment.left.untimed else row.moment.left.seconds

    def _metric(self) -> str:
        values = [row.moment.value for row in self.rows.values() if row.moment and row.moment.value]
        return COUNT.sub("", values[0][0]) if values else "value"

    def _shown(self) -> set[str]:
        """The names of the runs for which there is room: those that train first."""
        room = max(FEWEST, self.console.height // 2 - 4)
        return set(sorted(self.rows, key=lambda name: ORDER.index(self.rows[name].state))[:room])

    def _cells(self, row: Row) -> list[str | Text | ProgressBar]:
        now = row.moment
        if now is None:
            return [Text(row.state, style="dim"), "", "", "", ""]
        loss = f"{now.losses['total']:.3f}" if "total" in now.losses else ""
        value = f"{now.value[1]:.3g}" if now.value else ""
        left = f"measuring {now.measured[0] / now.measured[1]:.0%}" if now.measured else write_left(now.left)
        bar = ProgressBar(total=1.0, completed=1.0 if row.state == "done" else now.share, width=10)
        return [bar, str(now.step), loss, value, row.state if row.state != "running" else left]


def write_left(left: Left) -> str:
    """Short, for a narrow column."""
    seconds = "" if left.seconds is None else str(timedelta(seconds=round(left.seconds)))
    return f"{seconds} + {left.untimed} eval." if left.untimed else seconds
