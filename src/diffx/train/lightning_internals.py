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
from torch import Tensor
from torch.optim import Optimizer
from torch.utils._pytree import tree_map_only


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


class Handed(TorchCheckpointIO):
    """A checkpoint is handed to diffx, which writes it beside the target and renames: Lightning's own way makes a copy
    in memory and another in the temporary folder, which each kill leaves there. It is read by mapping it into memory.

    device: of the training. What an optimizer would go on to use from the mapped file, where that is the CPU, is
    copied: a run must not depend on a file that its next checkpoint replaces.
    """

    def __init__(self, device: torch.device) -> None:
        super().__init__()
        self.taken: dict[str, Any] = {}
        self._device = device

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        self.taken = checkpoint

    def load_checkpoint(self, path: Any, map_location: Any = None, weights_only: bool | None = None) -> dict[str, Any]:
        checkpoint: dict[str, Any] = torch.load(Path(path), map_location="cpu", mmap=True, weights_only=True)
        copied = (lambda t: t.clone()) if self._device.type == "cpu" else (lambda t: t if t.ndim else t.clone())
        checkpoint["optimizer_states"] = tree_map_only(Tensor, copied, checkpoint["optimizer_states"])
        return checkpoint


def taken_checkpoint(trainer: L.Trainer) -> dict[str, Any]:
    """All of a checkpoint as it is now, with training's own tensors; {} on ranks above 0. Every rank has to ask."""
    handed = trainer.strategy.checkpoint_io
    assert isinstance(handed, Handed)
    trainer.save_checkpoint("nowhere")
    taken, handed.taken = handed.taken, {}
    return taken
