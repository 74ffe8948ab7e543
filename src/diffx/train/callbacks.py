"""What happens after a training step: the clock, evaluations, checkpoints and stopping."""

import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any, cast

import lightning as L

from diffx import ranks
from diffx.backbone import Backbone
from diffx.checkpoint.post_hoc import write_snapshot
from diffx.curves.prune import Pruning
from diffx.errors import DiffxError
from diffx.processes.children import is_orphan
from diffx.run.folder import RunDir
from diffx.store.later import Later
from diffx.train.checkpoint import copy_checkpoint
from diffx.train.clock import Meter
from diffx.train.module import DiffusionModule


class Agreement(L.Callback):
    """Ranks that were given different configurations end before the first step."""

    def __init__(self, run: Path) -> None:
        self.run = run

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        runs = set(ranks.everyones(str(self.run)))
        if len(runs) > 1:
            raise DiffxError(f"The processes of this run disagree about it: {', '.join(sorted(runs))}.")


class Clock(L.Callback):
    """Runs the meter, and knows when the budget, in the meter's hours, is spent."""

    def __init__(self, meter: Meter, budget: float | None) -> None:
        self.meter, self.budget = meter, budget

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self.meter.start()

    def after_step(self, trainer: L.Trainer, module: DiffusionModule) -> None:
        self.meter.step()

    @property
    def spent(self) -> bool:
        return self.budget is not None and self.meter.hours >= self.budget

    def state_dict(self) -> dict[str, Any]:
        return self.meter.state_dict()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.meter.load_state_dict(state_dict)


class Interruption:
    """Hears Ctrl-C, SIGTERM and SIGUSR1, upon which training ends after the step in hand. A second Ctrl-C ends the
    process; clusters repeat the others."""

    def __init__(self) -> None:
        self.received: str | None = None
        self._previous: dict[signal.Signals, Any] = {}

    def __enter__(self) -> "Interruption":
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1):
            self._previous[number] = signal.signal(number, self._receive)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def _receive(self, number: int, frame: FrameType | None) -> None:
        self.received = signal.Signals(number).name
        if is_orphan():  # whoever read what this process prints is gone, and a broken pipe would end it unsaved
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, 1)
            os.dup2(nowhere, 2)
        if number == signal.SIGINT:
            signal.signal(number, signal.default_int_handler)


class Stop:
    """Ends training when the budget is spent, a signal came or the run is pruned. Ranks agree on it, once in `every`
    steps."""

    def __init__(self, clock: Clock, interruption: Interruption, pruning: Pruning, every: int) -> None:
        self.clock, self.interruption, self.pruning, self.every = clock, interruption, pruning, every

    def after_step(self, trainer: L.Trainer, module: DiffusionModule) -> None:
        wanted = self.clock.spent or bool(self.interruption.received) or self.pruning.reason is not None
        if trainer.world_size > 1:
            if trainer.global_step % self.every:
                return
            wanted = trainer.strategy.reduce_boolean_decision(wanted, all=False)
        if wanted:
            trainer.should_stop = True

    def interrupted(self, trainer: L.Trainer) -> bool:
        """Whether a signal reached any of the ranks."""
        return trainer.strategy.reduce_boolean_decision(bool(self.interruption.received), all=False)

    def pruned(self, trainer: L.Trainer) -> bool:
        """Whether the first rank, which reads the other runs, has broken this one off before its end."""
        ended = self.clock.spent or trainer.global_step >= trainer.max_steps
        return trainer.strategy.reduce_boolean_decision(self.pruning.reason is not None and not ended, all=False)


class Checkpoints:
    """Saves the last checkpoint, at least so many minutes of wall-clock time apart, and so far that saving takes no
    larger share of training; but not while steps are being skipped.

    Training waits for the copy in memory; a thread of the first rank writes that. What writing takes of a CPU's time is
    booked as "checkpoint" too.
    """

    def __init__(self, run: RunDir, meter: Meter, minutes: float, share: float, last_is_good: bool) -> None:
        self.run, self.meter, self.minutes, self.share = run, meter, minutes, share
        self.last_is_good = last_is_good  # if not, resuming fell back to the one before, which then has to stay
        self._writer = Later()
        self._last, self._trained, self._saving = time.monotonic(), meter.seconds["train"], 0.0
        meter.beside = self._writer.seconds

    def after_step(self, trainer: L.Trainer, module: DiffusionModule) -> None:
        self._writer.check()
        due = ranks.is_first() and self.due()
        if trainer.world_size > 1:
            due = trainer.global_step % 20 == 0 and trainer.strategy.reduce_boolean_decision(due, all=False)
        if due and not int(module.guard.row):
            self.save(trainer, module)

    def due(self) -> bool:
        """Whether the last save is long enough ago, by the clock and by what it took."""
        took = self.meter.seconds["checkpoint"] - self._saving + self.meter.unbooked()
        enough = self.share * (self.meter.seconds["train"] - self._trained) >= took
        return enough and time.monotonic() - self._last > self.minutes * 60

    def save(self, trainer: L.Trainer, module: DiffusionModule) -> None:
        """Copy now, and have the copy written; raises what went wrong with the one before."""
        module.guard.check(trainer.global_step)
        self.finish()
        self._saving = self.meter.seconds["checkpoint"]
        with self.meter.section("checkpoint"):
            self._writer.do(copy_checkpoint(trainer, self.run, keep_last=self.last_is_good))
        self.last_is_good = True
        self._last, self._trained = time.monotonic(), self.meter.seconds["train"]

    def finish(self) -> None:
        """Wait until what was copied is on disk; raises what went wrong there."""
        with self.meter.section("checkpoint"):
            self._writer.wait()
        self.meter.book_beside("checkpoint")


class Evaluations:
    """Calls `evaluate` at log-spaced steps, first · 2^(k / per_doubling), each followed by a look whether the run is to
    be broken off; and after the last step."""

    def __init__(
        self,
        evaluate: Callable[[Backbone, int, float], dict[str, float]],
        meter: Meter,
        first: float,
        per_doubling: float,
        pruning: Pruning,
    ) -> None:
        self.evaluate, self.meter, self.pruning = evaluate, meter, pruning
        self.steps = {round(first * 2 ** (k / per_doubling)) for k in range(int(40 * per_doubling))}
        self.done = -1  # the step of the last evaluation
        self.told: Callable[[int, float, dict[str, float]], None] | None = None  # hears of each, and how long it took

    def after_step(self, trainer: L.Trainer, module: DiffusionModule) -> None:
        if trainer.global_step in self.steps:
            self.run(module, trainer.global_step)
            if ranks.is_first():
                self.pruning.look()

    def run(self, module: DiffusionModule, step: int) -> None:
        """Evaluate, unless this step has been."""
        if self.done == step:
            return
        begun = time.monotonic()
        with self.meter.section("eval"):
            values = self.evaluate(module.whole_ema(), step, self.meter.hours)
        self.done = step
        if self.told is not None:
            self.told(step, time.monotonic() - begun, values)


class Snapshots:
    """Keeps the power-function averages every so many steps; None: never."""

    def __init__(self, run: RunDir, meter: Meter, every: int | None) -> None:
        self.run, self.meter, self.every = run, meter, every

    def after_step(self, trainer: L.Trainer, module: DiffusionModule) -> None:
        if self.every is None or trainer.global_step % self.every:
            return
        with self.meter.section("checkpoint"):
            for length, power in zip(module.lengths, module.powers.values(), strict=True):
                weights = module.whole(cast(Backbone, power)).state_dict()
                if ranks.is_first():
                    write_snapshot(self.run, trainer.global_step, length, weights, module.run)


class Ending(L.Callback):
    """The end of training: the checkpoint first, then, unless it was interrupted or pruned, the last evaluation."""

    def __init__(self, checkpoints: Checkpoints, evaluations: Evaluations, stop: Stop) -> None:
        self.checkpoints, self.evaluations, self.stop = checkpoints, evaluations, stop
        self.interrupted = self.pruned = False

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        assert isinstance(pl_module, DiffusionModule)
        self.checkpoints.save(trainer, pl_module)
        try:
            self.interrupted = self.stop.interrupted(trainer)
            self.pruned = self.stop.pruned(trainer)
            if not self.interrupted and not self.pruned:
                self.evaluations.run(pl_module, trainer.global_step)
        finally:
            self.checkpoints.finish()
