"""The W&B run of a run directory, offline unless there is a key. curve.jsonl is the truth; this is a sink."""

import os

from lightning.pytorch.loggers import WandbLogger
from omegaconf import DictConfig, OmegaConf

from diffx import ranks
from diffx.errors import DiffxError
from diffx.run import RunDir, run_id

NAMES, MODES = ("wandb", "none"), ("auto", "online", "offline")


def make_logger(config: DictConfig, run: RunDir, plan: str) -> WandbLogger | None:
    """The logger of this run, or None where there is to be none; only the first process logs."""
    if config.logger.name == "none" or not ranks.is_first():
        return None
    os.environ.setdefault("WANDB_SILENT", "true")
    import wandb

    label = "+".join(config.plugins) or "plain"
    experiment = wandb.init(
        project=config.logger.project,
        id=f"{run_id(config)}-s{config.seed}",
        resume="allow",
        name=f"{label} s{config.seed}",
        group=config.experiment,
        tags=list(config.plugins) or ["plain"],
        dir=run.path,
        mode="online" if _online(config.logger.mode) else "offline",
        config={**OmegaConf.to_container(config), "plan": plan},  # type: ignore[dict-item]
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


def _online(mode: str) -> bool:
    return mode == "online" or (mode == "auto" and bool(os.environ.get("WANDB_API_KEY")))
