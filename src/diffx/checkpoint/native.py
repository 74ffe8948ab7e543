"""diffx's own checkpoints: last.ckpt with all that is needed to go on, ema.safetensors with the plain backbone."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from diffx.errors import DiffxError
from diffx.run.folder import RunDir
from diffx.store.archive import check_archive
from diffx.store.sealed import read_sealed


def newest_checkpoint(run: RunDir) -> Path | None:
    """The last checkpoint that is whole; None where there is none at all.

    Raises:
        DiffxError: what there is is damaged.
    """
    damaged: list[DiffxError] = []
    for path in (run.last_checkpoint, run.previous_checkpoint):
        if not path.exists():
            continue
        try:
            return whole_checkpoint(path)
        except DiffxError as error:
            damaged.append(error)
    if damaged:
        raise damaged[0]
    return None


def whole_checkpoint(path: Path) -> Path:
    """The path, after reading all of the file and comparing its checksum, which one process does for all.

    Raises:
        DiffxError: there is no such file or it is damaged.
    """
    with _reading(path):
        check_archive(path)
    return path


def read_checkpoint(path: Path) -> dict[str, Any]:
    """A checkpoint as plain data and tensors; nothing in it can execute. It is mapped into memory, which all processes
    of a machine share, and read where it is used. `whole_checkpoint` has compared its checksum.

    Raises:
        DiffxError: there is no such file or it is no checkpoint.
    """
    with _reading(path):
        state = torch.load(path, map_location="cpu", mmap=True, weights_only=True)
        if not isinstance(state, dict):
            raise ValueError("no mapping")
        return state


@contextmanager
def _reading(path: Path) -> Iterator[None]:
    """Whatever goes wrong inside is a sentence about the file."""
    try:
        yield
    except FileNotFoundError as error:
        raise DiffxError(
            f"resume={path}: there is no such file; type resume=auto or the path of a last.ckpt."
        ) from error
    except Exception as error:
        raise DiffxError(
            f"{path} cannot be read as a diffx checkpoint ({type(error).__name__}). If it is damaged, move it away and "
            "type resume=never to start anew."
        ) from error


def check_belongs(checkpoint: dict[str, Any], module: nn.Module, path: Path) -> None:
    """Refuse to go on from a checkpoint of another backbone or another plugin set, printing the difference."""
    theirs: dict[str, Tensor] = checkpoint.get("state_dict", {})
    ours = module.state_dict()
    their_plugins, our_plugins = _plugins(theirs, checkpoint), _plugins(ours, {"plugins": sorted(module.plugins)})  # type: ignore[arg-type]
    if their_plugins != our_plugins:
        raise DiffxError(
            f"{path} was trained with plugins [{', '.join(their_plugins)}] and this run has "
            f"[{', '.join(our_plugins)}]; type plugins=[{','.join(their_plugins)}] to go on from it."
        )
    differences = [
        f"{key}: {_shape(theirs.get(key))} in the file, {_shape(ours.get(key))} here"
        for key in sorted(theirs.keys() | ours.keys())
        if _shape(theirs.get(key)) != _shape(ours.get(key))
    ]
    if differences:
        raise DiffxError(
            f"{path} holds another model; {len(differences)} tensors differ, first {'; '.join(differences[:3])}. "
            "Type the backbone settings that it was trained with (config.yaml beside it), or resume=never."
        )


def check_optimizer(checkpoint: dict[str, Any], optimizer: torch.optim.Optimizer, path: Path) -> None:
    """Refuse a checkpoint whose optimizer keeps other settings than this one."""
    (theirs,) = checkpoint["optimizer_states"]
    ours = optimizer.state_dict()
    if [group.keys() for group in theirs["param_groups"]] != [group.keys() for group in ours["param_groups"]]:
        raise DiffxError(
            f"{path} was trained with another optimizer than {type(optimizer).__name__}; type the one that it was "
            "trained with (config.yaml beside it), or resume=never."
        )


def load_backbone(backbone: nn.Module, path: Path) -> None:
    """Load the plain backbone from ema.safetensors, strictly, and after comparing its checksum.

    Raises:
        DiffxError: the file is missing, damaged, or of another backbone.
    """
    weights = read_sealed(path)
    ours = backbone.state_dict()
    for key in sorted(weights.keys() | ours.keys()):
        if _shape(weights.get(key)) != _shape(ours.get(key)):
            raise DiffxError(
                f"{path} is of another backbone: {key} is {_shape(weights.get(key))} in the file and "
                f"{_shape(ours.get(key))} here."
            )
    backbone.load_state_dict(weights)


def _plugins(state: dict[str, Tensor], checkpoint: dict[str, Any]) -> list[str]:
    named = {key.split(".")[1] for key in state if key.startswith("plugins.")}
    return sorted(named | set(checkpoint.get("plugins", [])))


def _shape(tensor: Tensor | None) -> str:
    return "absent" if tensor is None else "x".join(map(str, tensor.shape)) or "scalar"
