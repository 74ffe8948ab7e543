"""Where a run says how far it is: on a terminal a line that is drawn over, in a log file lines, and to a sweep that
draws one table of all its runs records."""

import json
import os
import time
from dataclasses import asdict, dataclass, field
from typing import Any, Protocol

from rich.console import Console
from rich.progress import BarColumn, TaskProgressColumn, TextColumn
from rich.progress import Progress as Bars
from rich.table import Column

from diffx.run.forecast import Left

RECORDS = "DIFFX_RECORDS"  # set where the parent draws
MARK = "\x1e"  # begins a record of JSON text in a stream (RFC 7464)


@dataclass(frozen=True)
class Moment:
    """How far a run is.

    Attributes:
        share: of training, from 0 to 1.
        losses: of the last step.
        rate: training samples per second.
        skipped: steps without a finite gradient, so far.
        left: the time to go.
        measured: of an evaluation that is under way: samples drawn, and of how many.
        value: the name of the first metric and its last value.
    """

    step: int
    share: float
    losses: dict[str, float] = field(default_factory=dict)
    rate: float = 0.0
    skipped: int = 0
    left: Left = field(default_factory=lambda: Left(None))
    measured: tuple[int, int] | None = None
    value: tuple[str, float] | None = None

    def __str__(self) -> str:
        facts = [f"step {self.step}"]
        facts += [f"measuring: {self.measured[0]} of {self.measured[1]} samples"] if self.measured else []
        if not self.measured:
            facts += [" ".join(f"{name} {value:.3f}" for name, value in self.losses.items())]
            facts += [f"{self.rate:.0f} samples/s"]
        facts += [f"{self.skipped} steps skipped"] if self.skipped else []
        return " · ".join([*facts, str(self.left)])


class Screen(Protocol):
    """Somewhere to say it. `due` is asked after every step."""

    def due(self) -> bool: ...
    def show(self, moment: Moment) -> None: ...
    def close(self) -> None: ...


def choose_screen(first: bool) -> Screen:
    """What fits this process's output; processes but the first rank of a run say nothing."""
    if not first:
        return Nothing()
    if RECORDS in os.environ:
        return Records()
    console = Console()
    return Bar(console) if console.is_terminal else Lines()


class Nothing:
    """Says nothing."""

    def due(self) -> bool:
        return False

    def show(self, moment: Moment) -> None:
        pass

    def close(self) -> None:
        pass


class Bar:
    """One line of a terminal, twice a second."""

    def __init__(self, console: Console) -> None:
        text = TextColumn("{task.fields[facts]}", table_column=Column(ratio=1, no_wrap=True, overflow="ellipsis"))
        self._bars = Bars(
            BarColumn(bar_width=12),
            TaskProgressColumn(),
            text,
            TextColumn("{task.fields[left]}", justify="right"),
            console=console,
            expand=True,
        )
        self._task = self._bars.add_task("", total=1.0, facts="", left="")
        self._spoken = -1.0
        self._bars.start()

    def due(self) -> bool:
        return time.monotonic() - self._spoken > 0.5

    def show(self, moment: Moment) -> None:
        self._spoken = time.monotonic()
        facts = str(moment).removesuffix(f" · {moment.left}")
        self._bars.update(self._task, completed=moment.share, facts=facts, left=str(moment.left))

    def close(self) -> None:
        self._bars.stop()


class Lines:
    """A line of a log file every ten seconds, and of a long run every minute."""

    def __init__(self) -> None:
        self._begun = self._spoken = time.monotonic()

    def due(self) -> bool:
        now = time.monotonic()
        return now - self._spoken > min(60.0, max(10.0, (now - self._begun) / 20))

    def show(self, moment: Moment) -> None:
        self._spoken = time.monotonic()
        print(moment, flush=True)

    def close(self) -> None:
        pass


class Records:
    """A record every second for the process that has started this one."""

    def __init__(self) -> None:
        self._spoken = -1.0

    def due(self) -> bool:
        return time.monotonic() - self._spoken > 1

    def show(self, moment: Moment) -> None:
        self._spoken = time.monotonic()
        # In one write: between two, another process of this run could put a warning into the line.
        print(f"{MARK}{json.dumps(asdict(moment))}\n", end="", flush=True)

    def close(self) -> None:
        pass


def read_record(line: str) -> Moment | None:
    """The moment that a line of a run's output tells; None where it is an ordinary line."""
    if not line.startswith(MARK):
        return None
    try:
        found: dict[str, Any] = json.loads(line.removeprefix(MARK))
    except ValueError:  # something else has written into the line
        return None
    return Moment(**found | {"left": Left(**found["left"])})
