"""Where a run's numbers go beside its folder: W&B (offline unless there is a key), or another of Lightning's loggers.
curve.jsonl is the truth; this is a sink."""

import netrc
import os
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlparse

from diffx.errors import DiffxError

if TYPE_CHECKING:
    from lightning.pytorch.loggers import Logger, WandbLogger

COUNT = re.compile(r"_\d+k?$")  # of samples, at the end of a metric's name


class Sink:
    """A logger that may fail. W&B's own process may die (of the signal that stops a job, say) or a disk be full: that
    is said once, and the run goes on without it. Pictures go to loggers that take them, W&B's and Comet's.
    """

    def __init__(self, logger: "Logger | None") -> None:
        self._logger = logger

    def metrics(self, values: Mapping[str, float], step: int) -> None:
        """One row."""
        self._try(lambda logger: logger.log_metrics(values, step=step))

    def evaluation(
        self,
        values: Mapping[str, float],
        rising: Sequence[str],
        picture: Path,
        cost: tuple[str, float],
        step: int,
    ) -> None:
        """The values of an evaluation in one row with the cost (unit, hours), which is their x-axis, and a picture.
        rising: the metrics, without their number of samples, of which more is better."""
        unit, hours = cost
        best = {name: "max" if COUNT.sub("", name) in rising else "min" for name in values}
        self._try(lambda logger: define_axis(logger, best, unit) if _is_wandb(logger) else None)
        self.metrics({f"eval/{name}": value for name, value in values.items()} | {unit: hours}, step)
        self._try(lambda logger: getattr(logger, "log_image", _nothing)("samples", [str(picture)], step=step))

    def finish(self) -> None:
        """Wait until everything is written."""
        self._try(lambda logger: logger.experiment.finish() if _is_wandb(logger) else logger.finalize("success"))

    def _try(self, act: Callable[[Any], object]) -> None:
        if self._logger is None:
            return
        try:
            act(self._logger)
        except Exception as error:  # W&B's own kinds, and those of its sockets and files
            name, self._logger = type(self._logger).__name__, None
            print(f"{name} failed ({type(error).__name__}: {error}); the run's folder has everything.", flush=True)


def _is_wandb(logger: Any) -> bool:
    return hasattr(getattr(logger, "experiment", None), "define_metric")


def _nothing(*_: Any, **__: Any) -> None:
    """For a logger that takes no pictures."""


@dataclass(frozen=True)
class WandbRun:
    """How a run appears in W&B. mode: auto, online or offline. facts: its settings, plan and record."""

    id: str
    name: str
    group: str
    tags: Sequence[str]
    project: str
    mode: str
    folder: Path
    facts: Mapping[str, Any]


def make_logger(name: str, folder: Path, step: int, own: Callable[[], "Logger"] | None) -> "Logger":
    """Lightning's logger of this name: csv or tensorboard in the run's folder, or the user's own.

    step: that training goes on from; a CSV of its own begins there, since Lightning's logger deletes the one before.

    Raises:
        DiffxError: a package that it needs is not here.
    """
    from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger

    try:
        if own is not None:
            return own()
        if name == "csv":
            return CSVLogger(folder, name="csv", version=f"from_step_{step}")
        return TensorBoardLogger(folder, name="tensorboard", version="")
    except ModuleNotFoundError as error:
        raise DiffxError(f"logger={name} needs a package that is not here ({str(error).splitlines()[0]}).") from error


def open_sink(run: WandbRun | None) -> Sink:
    """W&B's run of this name, gone on with where there is one already; None: a sink that drops everything."""
    if run is None:
        return Sink(None)
    os.environ.setdefault("WANDB_SILENT", "true")
    import wandb
    from lightning.pytorch.loggers import WandbLogger

    experiment = wandb.init(
        project=run.project,
        id=re.sub(r"[^A-Za-z0-9_.-]", "-", run.id),
        resume="allow",
        name=run.name,
        group=run.group,
        tags=list(run.tags),
        dir=run.folder.resolve(),
        mode="online" if online(run.mode) else "offline",
        config=dict(run.facts),
    )
    logger = WandbLogger(experiment=experiment)
    logger.experiment.define_metric("train/*", step_metric="trainer/global_step")
    return Sink(logger)


def define_axis(logger: "WandbLogger", best: Mapping[str, str], unit: str) -> None:
    """The cost is the x-axis of each of these eval/* metrics, by its exact name; their summary is the best value, which
    is the "max" or the "min"."""
    for name, which in best.items():
        logger.experiment.define_metric(f"eval/{name}", step_metric=unit, summary=which)


def online(mode: str) -> bool:
    """Whether to log to the server: `mode` says so, or it is "auto", there is a key and $WANDB_MODE does not object."""
    if mode != "auto":
        return mode == "online"
    return os.environ.get("WANDB_MODE", "online") == "online" and (
        bool(os.environ.get("WANDB_API_KEY")) or _logged_in()
    )


def _logged_in() -> bool:
    """Whether `wandb login` has left a key."""
    host = urlparse(os.environ.get("WANDB_BASE_URL", "https://api.wandb.ai")).hostname or ""
    try:
        return netrc.netrc().authenticators(host) is not None
    except (OSError, netrc.NetrcParseError):
        return False
