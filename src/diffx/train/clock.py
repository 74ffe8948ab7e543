"""What training costs: the clock of GPU-hours (CPU-hours on a CPU), and floating-point operations, counted."""

import resource
import statistics
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
import torch._dynamo.utils

from diffx.errors import DiffxError
from diffx.processes.devices import cost_unit

TYPICAL = 5  # steps whose median is a step


class Meter:
    """Seconds by section. Only "train" is the cost; "eval", "checkpoint" and "compile" are kept under their own names,
    and of "train" the parts that went into waiting for data and into encoders.

    On a GPU a second is wall-clock time, counted once for each device: data stalls, teachers, optimizer and logging are
    in it. On a CPU it is the processor time of this process, over all its threads: other processes' turns are not
    charged, but their share of caches and memory is felt (17 % fewer steps for the same time were seen). The first step
    of every start pays for warm-up, and every step in which something was compiled for the compiler: they are booked as
    "compile", and "train" is charged in the place of each the median of the last five others, or, until there were five
    since the start, of those that follow.
    """

    def __init__(self, device: torch.device, devices: int = 1, compilations: Callable[[], int] | None = None) -> None:
        self.device, self.devices, self._compilations = device, devices, compilations or graphs_compiled
        self.seconds: dict[str, float] = {"train": 0.0, "eval": 0.0, "checkpoint": 0.0, "compile": 0.0}
        self.parts: dict[str, float] = {"data": 0.0, "encoder": 0.0}  # of seconds["train"], about
        self._events: deque[tuple[str, torch.cuda.Event, torch.cuda.Event]] = deque()
        self.device_seconds = 0.0  # of training, over all devices and starts, however many there were at each
        self._mark: float | None = None  # None outside training, whose time belongs to nobody
        self._steps = 0  # since this start
        self._compiled = 0  # graphs, up to the last step
        self._ordinary: deque[float] = deque(maxlen=TYPICAL)  # seconds of the last steps that compiled nothing
        self._owed = 0  # steps in the place of which another is charged, and not yet for good
        self._lent = 0.0  # seconds charged for them so far
        self._asked: float | None = None
        self.beside: Callable[[], float] = lambda: 0.0  # processor time of a thread whose work is not training's
        self._booked = 0.0  # of that

    @property
    def unit(self) -> str:
        return cost_unit(self.device)

    @property
    def hours(self) -> float:
        """The cost so far, in the unit's hours, over all devices and starts."""
        return self.device_seconds / 3600

    def start(self) -> None:
        """Training begins, for the first time or after a resume."""
        self._steps, self._owed, self._lent = 0, 0, 0.0
        self._ordinary.clear()
        self._compiled, self._mark = self._compilations(), self._now()

    def step(self) -> None:
        """One optimizer step has ended."""
        elapsed, compiled = self._lap(), self._compilations()
        self._steps += 1
        if self._steps == 1 or compiled > self._compiled:
            self.seconds["compile"] += elapsed
            self._owed += 1
        else:
            self._ordinary.append(elapsed)
            self._train(elapsed)
        self._compiled = compiled
        if self._ordinary:
            self._charge_owed()

    def _charge_owed(self) -> None:
        """One step may be an outlier: what was charged is corrected until there are enough to tell."""
        charged = self._owed * statistics.median(self._ordinary)
        self._train(charged - self._lent)
        self._lent = charged
        if len(self._ordinary) == TYPICAL:
            self._owed, self._lent = 0, 0.0

    @contextmanager
    def section(self, name: str) -> Iterator[None]:
        """Time that is not training, booked under its own name; what passed since the last step belongs to training."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)  # work that a GPU still has queued is training's
        training = self._mark is not None
        if training:
            self._train(self._lap())
        else:
            self._mark = self._now()
        try:
            yield
        finally:
            self.seconds[name] = self.seconds.get(name, 0.0) + self._lap()
            self._compiled = self._compilations()  # what it compiled is its own
            if not training:
                self._mark = None

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        """Time inside training that is also kept under a name of its own. On a GPU it is the device's own time, read
        from events that have passed, so that nothing waits."""
        if self.device.type == "cpu":
            begun = self._host()
            yield
            self.parts[name] += self._host() - begun
            return
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        begin.record()
        yield
        end.record()
        self._events.append((name, begin, end))
        while self._events and self._events[0][2].query():
            passed, begin, end = self._events.popleft()
            self.parts[passed] += begin.elapsed_time(end) / 1000

    def timed(self, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        """A function whose time counts as that part. A teacher's says as before what it takes of the batch."""

        def call(*given: Any) -> Any:
            with self.part(name):
                return function(*given)

        if hasattr(function, "takes"):
            call.takes = function.takes  # type: ignore[attr-defined]
        return call

    def waits(self) -> None:
        """The next batch is asked for."""
        self._asked = self._host()

    def got(self) -> None:
        """The next batch is there: what it took is the host's time, of which a GPU with work queued feels less."""
        if self._asked is not None:
            self.parts["data"] += self._host() - self._asked
        self._asked = None

    def unbooked(self) -> float:
        """Seconds of the thread beside that no section has yet: none on a GPU, beside which a host has time."""
        return self.beside() - self._booked if self.device.type == "cpu" else 0.0

    def book_beside(self, name: str) -> None:
        """Put them into a section."""
        seconds = self.unbooked()
        self.seconds[name] += seconds
        self._booked += seconds

    def _host(self) -> float:
        return time.process_time() - self.beside() if self.device.type == "cpu" else time.perf_counter()

    def state_dict(self) -> dict[str, Any]:
        clock = {"seconds": dict(self.seconds), "parts": dict(self.parts)}
        return clock | {"device_seconds": self.device_seconds, "unit": self.unit}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from a saved clock. Raises DiffxError for one of the other kind of device: hours do not convert."""
        if state["unit"] != self.unit:
            raise DiffxError(
                f"This run was metered in {state['unit']} and this device is metered in {self.unit}; go on with it on "
                "the kind of device it began on (trainer.accelerator=), or type resume=never."
            )
        self.seconds, self.device_seconds = dict(state["seconds"]), float(state["device_seconds"])
        self.parts |= state.get("parts", {})

    def _train(self, seconds: float) -> None:
        self.seconds["train"] += seconds
        self.device_seconds += seconds * self.devices

    def _lap(self) -> float:
        now = self._now()
        elapsed, self._mark = now - (now if self._mark is None else self._mark), now
        return elapsed

    def _now(self) -> float:
        if self.device.type == "cuda" and self._steps < 2 + TYPICAL:
            torch.cuda.synchronize(self.device)  # the first steps are charged one by one; later ones only in sum
        return self._host()


def graphs_compiled() -> int:
    """How many graphs torch has compiled in this process."""
    return int(torch._dynamo.utils.counters["stats"]["unique_graphs"])


def peak_memory(device: torch.device) -> int:
    """Bytes: the most that tensors have taken on a GPU, or on a CPU the most that this process has."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
