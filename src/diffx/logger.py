"""The W&B run of a run directory, offline unless there is a key. curve.jsonl is the truth; this is a sink."""

import netrc
import os
import re
from collections.abc import Iterable
from typing import TYPE_CHECKING
from urllib.parse import urlparse

from omegaconf import DictConfig, OmegaConf

from diffx import ranks
from diffx.errors import DiffxError
from diffx.run import RunDir, run_id

if TYPE_CHECKING:
    from lightning.pytorch.loggers import WandbLogger

HIGHER_IS_BETTER = ("is", "precision", "recall")
NAMES, MODES = ("wandb", "none"), ("auto", "online", "offline")


def make_logger(config: DictConfig, run: RunDir, plan: str) -> "WandbLogger | None":
    """The logger of this run, or None where there is to be none; only the first process logs."""
    if config.logger.name == "none" or not ranks.is_first():
        return None
    os.environ.setdefault("WANDB_SILENT", "true")
    import wandb
    from lightning.pytorch.loggers import WandbLogger

    label = "+".join(config.plugins) or "plain"
    experiment = wandb.init(
        project=config.logger.project,
        id=f"{re.sub(r'[^A-Za-z0-9_.-]', '-', config.experiment)}-{run_id(config)}-s{config.seed}",
        resume="allow",
        name=f"{label} s{config.seed}",
        group=config.experiment,
        tags=list(config.plugins) or ["plain"],
        dir=run.path.resolve(),
        mode="online" if online(config.logger.mode) else "offline",
        config={**OmegaConf.to_container(config), "plan": plan, "card": run.read_card()},  # type: ignore[dict-item]
    )
    logger = WandbLogger(experiment=experiment)
    logger.experiment.define_metric("train/*", step_metric="trainer/global_step")
    return logger


def check_logger(config: DictConfig) -> None:
    """Refuse an unknown logger or mode."""
    if config.logger.name not in NAMES:
        raise DiffxError(f"logger.name={config.logger.name} is not known; type logger=wandb or logger=none.")
    if config.logger.name == "wandb" and config.logger.mode not in MODES:
        raise DiffxError(f"logger.mode={config.logger.mode} is not known; type logger.mode=auto, online or offline.")


def define_axis(logger: "WandbLogger", metrics: Iterable[str], unit: str) -> None:
    """The cost is the x-axis of each of these eval/* metrics, by its exact name; their summary is the best value."""
    for name in metrics:
        best = "max" if name.split("_")[0] in HIGHER_IS_BETTER else "min"
        logger.experiment.define_metric(f"eval/{name}", step_metric=unit, summary=best)


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
