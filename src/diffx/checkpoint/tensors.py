"""Files of tensors: .pt and .safetensors are read without running anything in them, and written whole or not at all."""

import argparse
import os
import pickle
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from diffx.errors import DiffxError
from diffx.store.sealed import SEAL, facts_of, read_sealed, write_sealed

PICKLES = (".pt", ".pth", ".ckpt")
LIGHTNING = {"ema": "ema_denoiser.", "model": "denoiser."}
EMAS = ("ema", "model_ema1")
"""What averages are called in a wrapper; JiT has two, and samples from the first."""


class TensorFile(NamedTuple):
    """What a file holds: tensors by name, and the settings of the run that wrote it, if it says."""

    tensors: dict[str, Tensor]
    args: dict[str, Any]


def read_tensors(path: Path, weights: str = "ema") -> TensorFile:
    """Read a state dict, or the `weights` ("ema" or "model") of a wrapper {model, ema, opt, args}, or of JiT's {model,
    model_ema1, model_ema2, ...}; or those of Lightning's {state_dict}, in which DDT has both, as ema_denoiser. and
    denoiser. before every name.

    "module." before every name is taken off. Beside tensors a pickle may hold an argparse.Namespace of plain values,
    as DiT's and SiT's training scripts write it.

    Raises:
        DiffxError: no such file; a pickle with more in it; not a file of tensors; no such weights in it.
    """
    if not path.is_file():
        raise DiffxError(f"{path} does not exist or is not a file.")
    content = _read_safetensors(path) if path.suffix == ".safetensors" else _read_pickle(path)
    args: dict[str, Any] = {}
    if isinstance(content, dict) and isinstance(state := content.get("state_dict"), dict):
        content = _of_module(state, LIGHTNING[weights])
    elif isinstance(content, dict) and (there := _wrapped(content)):
        args = vars(content["args"]) if isinstance(content.get("args"), argparse.Namespace) else {}
        if weights not in there:
            known = ", ".join(there)
            raise DiffxError(f"{path} holds no {weights} weights; it has {known}: type --weights {known}.")
        content = there[weights]
    if not isinstance(content, dict) or not content or not all(isinstance(v, Tensor) for v in content.values()):
        raise DiffxError(f"{path} is not a state dict: a mapping from names to tensors, or {{model, ema, opt, args}}.")
    prefix = "module." if all(key.startswith("module.") for key in content) else ""
    return TensorFile({key.removeprefix(prefix): tensor.detach() for key, tensor in content.items()}, args)


def _wrapped(content: Mapping[str, Any]) -> dict[str, Any]:
    """The state dicts of a wrapper, as "ema" and "model"."""
    found = {"ema": next((content[key] for key in EMAS if key in content), None), "model": content.get("model")}
    return {name: state for name, state in found.items() if isinstance(state, dict)}


def _of_module(state: Mapping[str, Any], prefix: str) -> dict[str, Any]:
    """The tensors under a prefix, without it, and those that are under none of LIGHTNING; all, where none is."""
    if not any(key.startswith(prefix) for key in state):
        return dict(state)
    others = tuple(LIGHTNING.values())
    return {k.removeprefix(prefix): t for k, t in state.items() if k.startswith(prefix) or not k.startswith(others)}


def write_tensors(tensors: Mapping[str, Tensor], path: Path) -> None:
    """Write a new file, as safetensors with a checksum or, for a name that ends in one of PICKLES, as torch.save does.

    Raises:
        DiffxError: the file exists, or cannot be written.
    """
    content = {key: tensor.contiguous() for key, tensor in tensors.items()}
    if path.suffix in PICKLES:
        _write_new(path, lambda partial: torch.save(content, partial))
    else:
        _write_new(path, lambda partial: write_sealed(content, {}, partial))


def write_as_ema(tensors: Mapping[str, Tensor], path: Path) -> None:
    """Write a new file, as torch.save does, of {ema: tensors}, as training scripts of REPA's kind leave them."""
    content = {"ema": {key: tensor.contiguous() for key, tensor in tensors.items()}}
    _write_new(path, lambda partial: torch.save(content, partial))


def _write_new(path: Path, write: Callable[[Path], None]) -> None:
    refuse_existing(path)
    partial = path.with_name(f".{path.name}.partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write(partial)
        os.replace(partial, path)
    except OSError as error:
        partial.unlink(missing_ok=True)
        raise DiffxError(f"{path} cannot be written ({error.strerror}).") from error


def refuse_existing(path: Path) -> None:
    if path.exists():
        raise DiffxError(f"{path} exists already; move it away or type another -o.")


def describe_mismatch(theirs: Mapping[str, Tensor], ours: Mapping[str, Tensor], file: str, model: str) -> str:
    """How many tensors differ in name or shape, and the first three; "" where none does."""
    lines = mismatches(theirs, ours, file, model)
    more = f"; and {len(lines) - 3} more" if len(lines) > 3 else ""
    return "; ".join(lines[:3]) + more


def mismatches(theirs: Mapping[str, Tensor], ours: Mapping[str, Tensor], file: str, model: str) -> list[str]:
    """Each tensor that differs in name or shape, in words."""
    return [
        f"{key} is {_shape(theirs.get(key))} in {file} and {_shape(ours.get(key))} in {model}"
        for key in dict.fromkeys([*ours, *theirs])
        if _shape(theirs.get(key)) != _shape(ours.get(key))
    ]


def _shape(tensor: Tensor | None) -> str:
    return "absent" if tensor is None else "x".join(map(str, tensor.shape)) or "a number"


def _read_safetensors(path: Path) -> dict[str, Tensor]:
    if SEAL in facts_of(path):
        return read_sealed(path)
    try:
        return load_file(path)
    except (SafetensorError, OSError) as error:
        raise DiffxError(f"{path} cannot be read as safetensors: {error}.") from error


def _read_pickle(path: Path) -> Any:
    try:
        with torch.serialization.safe_globals([argparse.Namespace]):
            return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise DiffxError(_unsafe(path)) from error
    except Exception as error:
        raise DiffxError(
            f"{path} cannot be read as a file of torch ({type(error).__name__}); is it damaged?"
        ) from error


def _unsafe(path: Path) -> str:
    try:
        found = torch.serialization.get_unsafe_globals_in_checkpoint(path)
    except Exception:
        found = []
    named = f" ({', '.join(found[:3])})" if found else ""
    return (
        f"{path} is a pickle that carries more than tensors{named}, and opening it may run code that its author put "
        "there, so diffx does not. If you trust the author, convert it once, in a container without your keys or "
        'data: python -c "import torch; from safetensors.torch import save_file; '
        f"c = torch.load('{path.name}', map_location='cpu', weights_only=False); c = c.get('ema', c); "
        "save_file({k: v.contiguous() for k, v in c.items()}, 'weights.safetensors')\", and import weights.safetensors."
    )
