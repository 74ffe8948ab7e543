"""A run's checkpoint: the one to go on from, and writing last.ckpt with the averages beside it."""

import os
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import lightning as L
import torch
from safetensors import SafetensorError
from torch import Tensor
from torch.utils._pytree import tree_map_only

from diffx import ranks
from diffx.checkpoint.native import check_belongs, check_optimizer, newest_checkpoint, read_checkpoint, whole_checkpoint
from diffx.config.settings import Settings
from diffx.errors import DiffxError
from diffx.processes import slurm
from diffx.run.folder import RunDir
from diffx.store.archive import write_archive
from diffx.store.sealed import write_sealed
from diffx.store.whole_file import to_disk
from diffx.train.clock import Meter
from diffx.train.lightning_internals import taken_checkpoint
from diffx.train.module import DiffusionModule


def checkpoint_to_go_on_from(
    settings: Settings, run: RunDir, module: DiffusionModule, meter: Meter
) -> tuple[Path, int] | None:
    """The checkpoint that settings.resume asks for and its step; the meter goes on from it. None: there is none.

    The first process looks whether it is whole, and all of them map it into memory.

    Raises:
        DiffxError: it is missing, damaged or of another model, or the run has one of its own that would be lost.
    """
    path = ranks.firsts(lambda: _find(settings.resume, run))
    if path is None:
        return None
    state = read_checkpoint(path)
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


def _find(resume: str, run: RunDir) -> Path | None:
    """In another turn of one Slurm job every setting means "auto": the rest was for its first."""
    if resume == "auto" or slurm.restarts():
        found = newest_checkpoint(run)
        if found == run.previous_checkpoint:
            print(f"{run.last_checkpoint} is damaged or missing; this is the one before it.", flush=True)
        if found:
            return found
    return None if resume in ("auto", "never") else whole_checkpoint(Path(resume))


def copy_checkpoint(trainer: L.Trainer, run: RunDir, keep_last: bool = True) -> Callable[[], None]:
    """A copy of all that a checkpoint holds, in this machine's memory; every rank has to call it. Calling the result
    writes last.ckpt and, beside it, the averages: training may go on meanwhile.

    The earlier files stay until the new ones are whole, and with keep_last the earlier last.ckpt goes on as
    previous.ckpt. Writing raises DiffxError where the disk is full or may not be written.
    """
    module = trainer.lightning_module
    assert isinstance(module, DiffusionModule)
    state = taken_checkpoint(trainer)
    averages = {decay: module.whole_ema(decay).state_dict() for decay in module.decays}
    autoencoder = module.end_to_end.decoder_state() if module.end_to_end is not None else None
    if not trainer.is_global_zero:
        return lambda: None
    state, averages, autoencoder = _copied((state, averages, autoencoder))
    facts = {"run": module.run, "step": str(trainer.global_step)}
    paths = {decay: run.more_ema_weights(decay) for decay in module.decays} | {module.decays[0]: run.ema_weights}

    def write() -> None:
        try:
            for decay, weights in averages.items():
                _put(paths[decay], partial(write_sealed, weights, facts))
            if autoencoder is not None:
                _put(run.autoencoder_weights, partial(write_sealed, autoencoder, facts))
            last = run.last_checkpoint
            _put(last, partial(write_archive, state, facts), run.previous_checkpoint if keep_last else None)
        except (OSError, SafetensorError, RuntimeError) as error:
            if isinstance(error, RuntimeError) and not any(w in str(error) for w in ("writ", "inline_container")):
                raise  # torch's writer says one of these when the disk is full; this is something else
            raise DiffxError(
                f"The checkpoint {run.last_checkpoint} cannot be written ({error}); the one before it is kept. "
                "Free some space and type the same command to go on from it."
            ) from error

    return write


def _copied(tree: Any) -> Any:
    """The same with tensors of its own on the CPU, which training does not change. A tensor that stands in it twice (an
    average and the file of its weights) is copied once."""
    copies: dict[tuple[Any, ...], Tensor] = {}

    def copy(tensor: Tensor) -> Tensor:
        key = (tensor.data_ptr(), tensor.shape, tensor.stride(), tensor.dtype, tensor.device)
        if not tensor.numel() or key not in copies:
            copies[key] = torch.empty_like(tensor, device="cpu", requires_grad=False).copy_(tensor.detach())
        return copies[key]

    return tree_map_only(Tensor, copy, tree)


def _put(path: Path, write: Callable[[Path], None], previous: Path | None = None) -> None:
    """Write `path` beside it and move it into place; what was there goes on as `previous`."""
    # Large, and written often: under one temporary name, so that kills leave one leftover and not many.
    beside = path.with_name(f".{path.name}.partial")
    try:
        write(beside)
        to_disk(beside)
        if previous and path.exists():
            _keep(path, previous)
        os.replace(beside, path)
    finally:
        beside.unlink(missing_ok=True)


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
