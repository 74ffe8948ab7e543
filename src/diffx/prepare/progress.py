"""How far a preparation is and when it ends: a bar on a terminal, a line every half minute in a log file."""

import time
from types import TracebackType
from typing import TYPE_CHECKING

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn
from rich.progress import Progress as Bar

if TYPE_CHECKING:
    from diffx.prepare.job import Process

EVERY = 30.0


class Progress:
    """Counts samples of this process; the first process alone speaks. Skipped samples leave the rate alone."""

    def __init__(self, what: str, total: int, process: "Process") -> None:
        self.what = what + (f" (process 1 of {process.world})" if process.world > 1 else "")
        self.total, self.done, self.made = total, 0, 0
        self._silent = process.rank > 0
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

    def advance(self) -> None:
        """One more sample is made."""
        self.done, self.made = self.done + 1, self.made + 1
        now = time.monotonic()
        if self._bar.disable:
            if not self._silent and now - self._spoke > EVERY:
                self._spoke = now
                self._console.print(f"{self.what}: {self.done} of {self.total}, {self.pace()}")
        elif self.made % 16 == 0:
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
        return f"{rate:,.0f}/s, {left // 3600}:{left // 60 % 60:02}:{left % 60:02} left"

    def __enter__(self) -> "Progress":
        self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bar.update(self._task, completed=self.done)
        self._bar.stop()
        if kind is None and not self._silent and self.made:
            self._console.print(f"{self.what}: {self.made} made, {self.rate():,.0f}/s")
