"""When a run says how far it is: on the screen by the clock, to its logger every so many steps, and once a forecast."""

import time
from datetime import datetime, timedelta
from typing import Any

import lightning as L

from diffx.processes.devices import write_cost
from diffx.run.forecast import Forecast
from diffx.run.screen import Moment, Nothing, Screen, choose_screen
from diffx.run.sink import Sink
from diffx.train.clock import Meter, peak_memory
from diffx.train.module import DiffusionModule

FORECAST_AFTER = 100  # steps since the start


class Progress(L.Callback):
    """What is seen of a run while it trains. Losses stay on the device until they are shown or logged.

    Args:
        every: steps between rows of the logger.
    """

    def __init__(self, meter: Meter, every: int, images_per_step: int, forecast: Forecast) -> None:
        self.meter, self.every, self.images_per_step, self.forecast = meter, every, images_per_step, forecast
        self.logger = Sink(None)
        self.screen: Screen = Nothing()
        self._value: tuple[str, float] | None = None

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._first_step = trainer.global_step
        self.screen = choose_screen(trainer.is_global_zero)

    def after_step(self, trainer: L.Trainer, module: DiffusionModule) -> None:
        step = trainer.global_step
        self.forecast.after_step(step, self.meter.hours, time.monotonic())
        if step == self._first_step + FORECAST_AFTER and step < self.forecast.max_steps and trainer.is_global_zero:
            print(self._say_forecast(step), flush=True)
        first, row = step == self._first_step + 1, step % self.every == 0
        if first or row or self.screen.due():
            self._look(module, step, row or first)

    def _look(self, module: DiffusionModule, step: int, row: bool) -> None:
        """Fetch the losses, which a GPU has to be waited for; row: for the logger too."""
        terms = {name: value.item() for name, value in module.terms.items()}
        if row:
            losses = {f"train/{name}": value for name, value in terms.items()}
            self.logger.metrics(losses | self._measured(step, module), step)
        if self.screen.due():
            skipped, left = int(module.guard.skipped), self.forecast.left()
            share, rate = self._share(step), self._rate(step)
            self.screen.show(Moment(step, share, terms, rate, skipped, left, value=self._value))

    def watch_evaluation(self, step: int, drawn: int, wanted: int) -> None:
        """An evaluation after `step` has drawn so many of its samples."""
        if self.screen.due():
            left = self.forecast.left(drawn / wanted)
            self.screen.show(Moment(step, self._share(step), left=left, measured=(drawn, wanted), value=self._value))

    def after_evaluation(self, step: int, seconds: float, values: dict[str, float]) -> None:
        """It took so many seconds of wall-clock time."""
        self.forecast.after_evaluation(step, seconds)
        self._value = next(iter(values.items()), None)

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self.screen.close()

    def on_exception(self, trainer: L.Trainer, pl_module: L.LightningModule, exception: BaseException) -> None:
        self.screen.close()

    def _measured(self, step: int, module: DiffusionModule) -> dict[str, Any]:
        return {
            "train/learning_rate": module.trainer.optimizers[0].param_groups[0]["lr"],
            "train/gradient_norm": module.gradient_norm.item(),
            "train/skipped_steps": int(module.guard.skipped),
            "train/samples_per_second": self._rate(step),
            "train/peak_memory_gib": peak_memory(self.meter.device) / 2**30,
            self.meter.unit: self.meter.hours,
        }

    def _share(self, step: int) -> float:
        """How much of training is done: of the steps or of the budget, whichever ends first."""
        spent = self.meter.hours / self.forecast.budget if self.forecast.budget else 0.0
        return min(1.0, max(step / self.forecast.max_steps, spent))

    def _rate(self, step: int) -> float:
        """Training samples per second of the meter's clock, over all starts."""
        seconds = self.meter.seconds["train"]
        return step * self.images_per_step / seconds if seconds else 0.0

    def _say_forecast(self, step: int) -> str:
        """What the whole run will cost at the pace of this start."""
        left = self.forecast.left()
        end = datetime.now().astimezone() + timedelta(seconds=left.seconds or 0)
        more = f", and later by {left.untimed} evaluation{'s' if left.untimed > 1 else ''}" if left.untimed else ""
        cost = write_cost(self.forecast.hours() or 0.0, self.meter.unit)
        return f"forecast at step {step}: {cost} of training in all, until about {end:%Y-%m-%d %H:%M}{more}"
