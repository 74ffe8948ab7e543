"""Starting a run from its resolved configuration: here for one device, through torchrun for several."""

import os

import torch
from omegaconf import DictConfig

from diffx.errors import DiffxError


def launch(config: DictConfig) -> None:
    """Train as configured. With several devices the parent writes the resolved configuration once and starts
    `torchrun -m diffx.worker` on it: ranks never compose, so they cannot disagree."""
    threads = config.trainer.threads
    if threads is not None and (not isinstance(threads, int) or threads < 1):
        raise DiffxError(f"trainer.threads={threads} must be a whole number of at least 1, or null.")
    torch.set_num_threads(threads or min(2, os.cpu_count() or 1))
    from diffx.train import train

    train(config)
