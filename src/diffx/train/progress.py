"""What a user and W&B see while a run trains: the bar, the log lines, the forecast."""

import time
from datetime import datetime, timedelta
from typing import Any

import lightning as L
from rich.progress import BarColumn, TextColumn, TimeElapsedColumn
from rich.progress import Progress as Bar

from diffx.run.sink import Sink
from diffx.train.clock import Meter, peak_memory
from diffx.train.module import DiffusionModule

FORECAST_AFTER = 100  # steps since the start


class Progress(L.Callback):
    """The progress bar and the log lines every `every` steps, and once a forecast of the whole cost.

    Losses stay on the device in between. Where the output is no terminal, a line every ten seconds stands in for the
    bar.
    """

    def __init__(self, meter: Meter, every: int, images_per_step: int, max_steps: int, budget: float | None) -> None:
        self.meter, self.every, self.images_per_step = meter, every, images_per_step
        self.max_steps, self.budget = max_steps, budget
        self.logger = Sink(None)
        self.progress = Bar(
            TextColumn("{task.description}"), BarColumn(), TextColumn("{task.fields[facts]}"), TimeElapsedColumn()
        )

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._task = self.progress.add_task("train", total=1.0, facts="")
        self._started, self._first_step = time.monotonic(), trainer.global_step
        self.progress.disable = not (trainer.is_global_zero and self.progress.console.is_terminal)
        self._first_share, self._first_hours = self._share(trainer.global_step), self.meter.hours
        self._spoken = time.monotonic()
        self.progress.start()

    def after_step(self, trainer: L.Trainer, module: DiffusionModule) -> None:
        step = trainer.global_step
        if step == self._first_step + FORECAST_AFTER and step < self.max_steps and trainer.is_global_zero:
            print(self._forecast(step), flush=True)
        if step % self.every and step != self._first_step + 1:
            return
        terms = {name: value.item() for name, value in module.terms.items()}
        self.logger.metrics({f"train/{name}": v for name, v in terms.items()} | self._measured(step, module), step)
        self._show(trainer, step, terms, int(module.guard.skipped))

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self.progress.update(self._task, completed=self._share(trainer.global_step))
        self.progress.stop()

    def on_exception(self, trainer: L.Trainer, pl_module: L.LightningModule, exception: BaseException) -> None:
        self.progress.stop()

    def _measured(self, step: int, module: DiffusionModule) -> dict[str, Any]:
        return {
            "train/gradient_norm": module.gradient_norm.item(),
            "train/skipped_steps": int(module.guard.skipped),
            "train/samples_per_second": self._rate(step),
            "train/peak_memory_gib": peak_memory(self.meter.device) / 2**30,
            self.meter.unit: self.meter.hours,
        }

    def _show(self, trainer: L.Trainer, step: int, terms: dict[str, float], skipped: int) -> None:
        facts = [f"step {step}", " ".join(f"{name} {value:.3f}" for name, value in terms.items())]
        facts += [f"{self._rate(step):.0f} samples/s"]
        facts += [f"{skipped} steps skipped"] if skipped else []
        line = " · ".join([*facts, self._time_left(step)])
        self.progress.update(self._task, completed=self._share(step), facts=line)
        if trainer.is_global_zero and not self.progress.console.is_terminal and time.monotonic() - self._spoken > 10:
            print(line, flush=True)
            self._spoken = time.monotonic()

    def _share(self, step: int) -> float:
        """How much of the run is done: of the steps or of the budget, whichever ends first."""
        spent = self.meter.hours / self.budget if self.budget else 0.0
        return min(1.0, max(step / self.max_steps, spent))

    def _rate(self, step: int) -> float:
        """Training samples per second of the meter's clock, over all starts."""
        seconds = self.meter.seconds["train"]
        return step * self.images_per_step / seconds if seconds else 0.0

    def _time_left(self, step: int) -> str:
        seconds = self._seconds_left(step)
        return "end: measuring" if seconds is None else f"{timedelta(seconds=round(seconds))} left"

    def _seconds_left(self, step: int) -> float | None:
        """Of wall-clock time, evaluations as frequent as they were; None while too little has been seen."""
        done = self._share(step) - self._first_share
        if done <= 0 or step < self._first_step + 3:
            return None
        return (time.monotonic() - self._started) * (1 - self._share(step)) / done

    def _forecast(self, step: int) -> str:
        """What the whole run will cost at the pace of this start."""
        pace = (self.meter.hours - self._first_hours) / (step - self._first_step)
        hours = min(self.meter.hours + pace * (self.max_steps - step), self.budget or float("inf"))
        end = datetime.now().astimezone() + timedelta(seconds=self._seconds_left(step) or 0)
        unit = self.meter.unit.replace("_", "-")
        return f"forecast at step {step}: {hours:.4g} {unit} of training in all, until about {end:%Y-%m-%d %H:%M}"
