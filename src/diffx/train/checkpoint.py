"""A run's checkpoint: the one to go on from, and writing last.ckpt with the averages beside it."""

import os
from pathlib import Path
from typing import Any

import lightning as L
from safetensors import SafetensorError
from torch import Tensor

from diffx import ranks
from diffx.checkpoint.native import check_belongs, check_optimizer, newest_checkpoint, read_checkpoint
from diffx.config.settings import Settings
from diffx.errors import DiffxError
from diffx.processes import slurm
from diffx.run.folder import RunDir
from diffx.store.sealed import write_sealed
from diffx.store.whole_file import to_disk
from diffx.train.clock import Meter
from diffx.train.module import DiffusionModule


def checkpoint_to_go_on_from(
    settings: Settings, run: RunDir, module: DiffusionModule, meter: Meter
) -> tuple[Path, int] | None:
    """The checkpoint that settings.resume asks for and its step; the meter goes on from it. None: there is none.

    Raises:
        DiffxError: it is missing, damaged or of another model, or the run has one of its own that would be lost.
    """
    found = _find(settings.resume, run)
    if found is None:
        return None
    path, state = found
    own = (run.last_checkpoint.resolve(), run.previous_checkpoint.resolve())
    if path.resolve() in own and state.get("run", module.run) != module.run:
        raise DiffxError(
            f"{path} says that it is of run {state['run']}, and this is run {module.run}; move it away, or type "
            f"resume={path} and another runs_dir to go on from it all the same."
        )
    check_belongs(state, module, path)
    check_optimizer(state, module.configure_optimizers(), path)
    if path.resolve() not in own and run.last_checkpoint.exists():
        raise DiffxError(
            f"resume={path}: {run.path} has a checkpoint of its own, which would be lost; "
            "type resume=auto to go on from that, or another runs_dir."
        )
    meter.load_state_dict(state["callbacks"]["Clock"])
    return path, int(state["global_step"])


def _find(resume: str, run: RunDir) -> tuple[Path, dict[str, Any]] | None:
    """In another turn of one Slurm job every setting means "auto": the rest was for its first."""
    if resume == "auto" or slurm.restarts():
        found = newest_checkpoint(run)
        if found and found[0] == run.previous_checkpoint and ranks.is_first():
            print(f"{run.last_checkpoint} is damaged or missing; this is the one before it.", flush=True)
        if found:
            return found
    return None if resume in ("auto", "never") else (Path(resume), read_checkpoint(Path(resume)))


def save_checkpoint(trainer: L.Trainer, run: RunDir, keep_last: bool = True) -> None:
    """Write last.ckpt and, beside it, the averages; every rank has to call it. The earlier files stay until the new
    ones are whole, and with keep_last the earlier last.ckpt goes on as previous.ckpt.

    Raises:
        DiffxError: the disk is full or may not be written.
    """
    module = trainer.lightning_module
    assert isinstance(module, DiffusionModule)
    last, partial = run.last_checkpoint, run.last_checkpoint.with_name(".last.ckpt.partial")
    try:
        trainer.save_checkpoint(partial)
        for decay in module.decays:
            state = module.whole_ema(decay).state_dict()
            if trainer.is_global_zero:
                path = run.ema_weights if decay == module.decays[0] else run.more_ema_weights(decay)
                _write_weights(state, {"run": module.run, "step": str(trainer.global_step)}, path)
        if trainer.is_global_zero:
            if keep_last and last.exists():
                _keep(last, run.previous_checkpoint)
            to_disk(partial)
            os.replace(partial, last)
    except (OSError, SafetensorError, RuntimeError) as error:
        if trainer.is_global_zero:
            partial.unlink(missing_ok=True)
        if isinstance(error, RuntimeError) and not any(word in str(error) for word in ("writ", "inline_container")):
            raise  # torch's writer says one of these when the disk is full; this is something else
        raise DiffxError(
            f"The checkpoint {last} cannot be written ({error}); the one before it is kept. "
            "Free some space and type the same command to go on from it."
        ) from error


def _write_weights(state: dict[str, Tensor], facts: dict[str, str], path: Path) -> None:
    # Large, and written often: under one temporary name, so that kills leave one leftover and not many.
    partial = path.with_name(f".{path.name}.partial")
    try:
        write_sealed(state, facts, partial)
        to_disk(partial)
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


def _keep(last: Path, previous: Path) -> None:
    """A second name for the last checkpoint, so that there is one under either name at any moment."""
    name = previous.with_name(f".{previous.name}.partial")
    name.unlink(missing_ok=True)
    try:
        os.link(last, name)
    except OSError:  # a file system without hard links
        os.replace(last, previous)
    else:
        os.replace(name, previous)
