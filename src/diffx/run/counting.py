"""How far a work of many samples is, how fast, and when it ends: a bar on a terminal, a line every half minute in a log
file."""

import time
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn
from rich.progress import Progress as Bar

EVERY = 30.0  # seconds between lines
LONG = 2.0  # seconds of work that are worth a last line
SOON = 0.2  # seconds between two looks of a bar


class Counting:
    """Counts samples of this process; the first process alone speaks. Skipped samples leave the rate alone."""

    def __init__(self, what: str, total: int, rank: int = 0, world: int = 1) -> None:
        self.what = what + (f" (process 1 of {world})" if world > 1 else "")
        self.total, self.done, self.made = total, 0, 0
        self._silent = rank > 0
        self._console = Console(stderr=True, highlight=False)
        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[pace]}"),
        )
        self._bar = Bar(*columns, console=self._console, disable=self._silent or not self._console.is_terminal)
        self._task = self._bar.add_task(self.what, total=total, pace="")
        self._start = self._spoke = time.monotonic()

    def advance(self, count: int = 1) -> None:
        """So many more samples are made."""
        self.done, self.made = self.done + count, self.made + count
        now = time.monotonic()
        if self._bar.disable:
            if not self._silent and now - self._spoke > EVERY:
                self._spoke = now
                self._console.print(f"{self.what}: {self.done} of {self.total}, {self.pace()}")
        elif now - self._spoke > SOON:
            self._spoke = now
            self._bar.update(self._task, completed=self.done, pace=self.pace())

    def skip(self, count: int) -> None:
        """`count` samples were there already."""
        self.done += count
        self._bar.update(self._task, completed=self.done)

    def rate(self) -> float:
        """Samples made per second since the start of this process."""
        return self.made / max(time.monotonic() - self._start, 1e-9)

    def pace(self) -> str:
        """The rate, and the time left at that rate."""
        rate = self.rate()
        left = round((self.total - self.done) / rate) if rate else 0
        return f"{write_rate(rate)}, {left // 3600}:{left // 60 % 60:02}:{left % 60:02} left"

    def __enter__(self) -> "Counting":
        self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bar.update(self._task, completed=self.done)
        self._bar.stop()
        if kind is None and not self._silent and self.made and time.monotonic() - self._start > LONG:
            self._console.print(f"{self.what}: {self.made} made, {write_rate(self.rate())}")


def write_rate(rate: float) -> str:
    """Of samples per second, with a digit behind the point where they are few."""
    return f"{rate:,.0f}/s" if rate >= 10 else f"{rate:.1f}/s"
