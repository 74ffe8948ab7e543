"""What happens around the training step: the clock, the progress bar, evaluations, checkpoints and stopping."""

import signal
import time
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

import lightning as L
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
from torch import Tensor

from diffx.checkpoint.native import save_checkpoint
from diffx.errors import DiffxError
from diffx.meter import Meter
from diffx.module import DiffusionModule


class Clock(L.Callback):
    """Runs the meter, and knows when the budget, in the meter's hours, is spent."""

    def __init__(self, meter: Meter, budget: float | None) -> None:
        self.meter, self.budget = meter, budget

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self.meter.start()

    def on_train_batch_end(self, trainer: L.Trainer, *args: Any) -> None:
        self.meter.step()

    @property
    def spent(self) -> bool:
        return self.budget is not None and self.meter.hours >= self.budget

    def state_dict(self) -> dict[str, Any]:
        return self.meter.state_dict()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.meter.load_state_dict(state_dict)


class Interruption:
    """Hears Ctrl-C and SIGTERM, upon which training ends after the step in hand; a second one ends the process."""

    def __init__(self) -> None:
        self.received: str | None = None
        self._previous: dict[signal.Signals, Any] = {}

    def __enter__(self) -> "Interruption":
        for number in (signal.SIGINT, signal.SIGTERM):
            self._previous[number] = signal.signal(number, self._receive)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def _receive(self, number: int, frame: FrameType | None) -> None:
        self.received = signal.Signals(number).name
        signal.signal(number, signal.default_int_handler)


class Stop(L.Callback):
    """Ends training when the budget is spent or a signal came. Ranks agree on it, once in `every` steps."""

    def __init__(self, clock: Clock, interruption: Interruption, every: int) -> None:
        self.clock, self.interruption, self.every = clock, interruption, every

    def on_train_batch_end(self, trainer: L.Trainer, *args: Any) -> None:
        wanted = self.clock.spent or bool(self.interruption.received)
        if trainer.world_size > 1:
            if trainer.global_step % self.every:
                return
            wanted = trainer.strategy.reduce_boolean_decision(wanted, all=False)
        if wanted:
            trainer.should_stop = True

    def interrupted(self, trainer: L.Trainer) -> bool:
        """Whether a signal reached any of the ranks."""
        received = bool(self.interruption.received)
        return received if trainer.world_size == 1 else trainer.strategy.reduce_boolean_decision(received, all=False)


class Checkpoints(L.Callback):
    """Writes the last checkpoint every so many minutes of wall-clock time; weights that are no numbers are not kept."""

    def __init__(self, path: Path, meter: Meter, minutes: float) -> None:
        self.path, self.meter, self.minutes = path, meter, minutes
        self._last = time.monotonic()

    def on_train_batch_end(self, trainer: L.Trainer, *args: Any) -> None:
        due = time.monotonic() - self._last > self.minutes * 60
        if trainer.world_size > 1:
            due = trainer.global_step % 20 == 0 and trainer.strategy.reduce_boolean_decision(due, all=False)
        if due:
            self.save(trainer)

    def save(self, trainer: L.Trainer) -> None:
        refuse_non_finite(trainer.lightning_module.terms, trainer.global_step)  # type: ignore[arg-type]
        with self.meter.section("checkpoint"):
            save_checkpoint(trainer, self.path)
        self._last = time.monotonic()


class Evaluations(L.Callback):
    """Calls `evaluate` at log-spaced steps, first · 2^(k / per_doubling), and after the last step."""

    def __init__(
        self, evaluate: Callable[[DiffusionModule, int], None], meter: Meter, first: int, per_doubling: float
    ) -> None:
        if first < 1 or per_doubling <= 0:
            raise DiffxError(
                f"eval.first={first} and eval.per_doubling={per_doubling} must be positive; "
                "type eval.first=100 eval.per_doubling=1."
            )
        self.evaluate, self.meter = evaluate, meter
        self.steps = {round(first * 2 ** (k / per_doubling)) for k in range(int(40 * per_doubling))}
        self.done = -1  # the step of the last evaluation

    def on_train_batch_end(self, trainer: L.Trainer, pl_module: L.LightningModule, *args: Any) -> None:
        if trainer.global_step in self.steps:
            self.run(pl_module, trainer.global_step)

    def run(self, module: L.LightningModule, step: int) -> None:
        """Evaluate, unless this step has been."""
        assert isinstance(module, DiffusionModule)
        if self.done == step:
            return
        refuse_non_finite(module.terms, step)
        with self.meter.section("eval"):
            self.evaluate(module, step)
        self.done = step


class Ending(L.Callback):
    """The end of training: the checkpoint first, then, unless it was interrupted, the last evaluation."""

    def __init__(self, checkpoints: Checkpoints, evaluations: Evaluations, stop: Stop) -> None:
        self.checkpoints, self.evaluations, self.stop = checkpoints, evaluations, stop
        self.interrupted = False

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self.checkpoints.save(trainer)
        self.interrupted = self.stop.interrupted(trainer)
        if not self.interrupted:
            self.evaluations.run(pl_module, trainer.global_step)


class Report(L.Callback):
    """The progress bar, the log lines and the guard against numbers that are not finite, every `every` steps.

    Where the output is no terminal, a line every ten seconds stands in for the bar.
    """

    def __init__(self, meter: Meter, every: int, images_per_step: int, max_steps: int, budget: float | None) -> None:
        self.meter, self.every, self.images_per_step = meter, every, images_per_step
        self.max_steps, self.budget = max_steps, budget
        self.progress = Progress(
            TextColumn("{task.description}"), BarColumn(), TextColumn("{task.fields[facts]}"), TimeElapsedColumn()
        )

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._task = self.progress.add_task("train", total=1.0, facts="")
        self._started, self._first_step = time.monotonic(), trainer.global_step
        self.progress.disable = not (trainer.is_global_zero and self.progress.console.is_terminal)
        self._first_share, self._spoken = self._share(trainer.global_step), time.monotonic()
        self.progress.start()

    def on_train_batch_end(self, trainer: L.Trainer, pl_module: L.LightningModule, *args: Any) -> None:
        assert isinstance(pl_module, DiffusionModule)
        if trainer.global_step % self.every and trainer.global_step != self._first_step + 1:
            return
        refuse_non_finite(pl_module.terms, trainer.global_step)
        terms = {name: value.item() for name, value in pl_module.terms.items()}
        rate = self._rate(trainer.global_step)
        trainer.logger and trainer.logger.log_metrics(
            {f"train/{name}": value for name, value in terms.items()}
            | {"train/samples_per_second": rate, self.meter.unit: self.meter.hours},
            step=trainer.global_step,
        )
        shown = " ".join(f"{name} {value:.3f}" for name, value in terms.items())
        facts = f"step {trainer.global_step} · {shown} · {rate:.0f} samples/s · {self._projected_end(trainer)}"
        self.progress.update(self._task, completed=self._share(trainer.global_step), facts=facts)
        if trainer.is_global_zero and not self.progress.console.is_terminal and time.monotonic() - self._spoken > 10:
            print(facts, flush=True)
            self._spoken = time.monotonic()

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self.progress.update(self._task, completed=self._share(trainer.global_step))
        self.progress.stop()

    def on_exception(self, trainer: L.Trainer, pl_module: L.LightningModule, exception: BaseException) -> None:
        self.progress.stop()

    def _share(self, step: int) -> float:
        """How much of the run is done: of the steps or of the budget, whichever ends first."""
        spent = self.meter.hours / self.budget if self.budget else 0.0
        return min(1.0, max(step / self.max_steps, spent))

    def _rate(self, step: int) -> float:
        """Training samples per second of the meter's clock, over all starts."""
        seconds = self.meter.seconds["train"]
        return step * self.images_per_step / seconds if seconds else 0.0

    def _projected_end(self, trainer: L.Trainer) -> str:
        done = self._share(trainer.global_step) - self._first_share
        if done <= 0 or trainer.global_step < self._first_step + 3:
            return "end: measuring"
        left = (time.monotonic() - self._started) * (1 - self._share(trainer.global_step)) / done
        return f"{time.strftime('%H:%M:%S', time.gmtime(left))} left"


def refuse_non_finite(terms: dict[str, Tensor], step: int) -> None:
    """Stop a run whose loss is no number any more, naming the term that broke."""
    broken = [name for name, value in terms.items() if not value.isfinite() and name != "total"]
    if broken:
        raise DiffxError(
            f"The loss {', '.join(broken)} is not finite at step {step}; the last checkpoint is kept. Type a lower "
            "optimizer.lr, trainer.precision=32-true, or a smaller weight of that plugin."
        )
