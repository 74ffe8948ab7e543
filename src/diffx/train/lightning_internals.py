"""Everything of Lightning that is not its public interface.

tests/train/test_lightning_internals.py names what is relied on, and pyproject.toml bounds the version; a new one is
tried there before the bound moves.
"""

from pathlib import Path
from typing import Any

import lightning as L
import torch
from lightning.pytorch.core.optimizer import LightningOptimizer
from lightning.pytorch.plugins.io import TorchCheckpointIO
from torch.optim import Optimizer


def leave_signals_alone(trainer: L.Trainer) -> None:
    """diffx's Interruption hears signals. Lightning would take SIGTERM away from it, broadcast from inside the handler,
    and, on several GPUs, make every batch wait for the device to ask whether there was one."""
    trainer._signal_connector.register_signal_handlers = lambda: None  # type: ignore[method-assign]
    trainer.fit_loop.epoch_loop._broadcast_sigterm_tensor = lambda: None  # type: ignore[method-assign]


def plain(optimizer: Optimizer) -> Optimizer:
    """The optimizer that Lightning has wrapped."""
    return optimizer.optimizer if isinstance(optimizer, LightningOptimizer) else optimizer


class WholeEpoch(L.Callback):
    """For a loader without an end, where all of training is one epoch: Lightning's checkpoints count micro-batches,
    whose number in a step may be another one after a resume."""

    def on_load_checkpoint(self, trainer: L.Trainer, module: L.LightningModule, checkpoint: dict[str, Any]) -> None:
        progress = checkpoint["loops"]["fit_loop"]["epoch_loop.batch_progress"]
        for counts in (progress["total"], progress["current"]):
            counts.update(dict.fromkeys(counts, checkpoint["global_step"] * trainer.accumulate_grad_batches))


class WrittenInPlace(TorchCheckpointIO):
    """Checkpoints go straight into the file that they are for. Lightning's own way makes a copy in memory and another
    in the temporary folder, which each kill leaves there; diffx writes beside the target and renames."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        torch.save(checkpoint, Path(path))
