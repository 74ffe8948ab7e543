"""Files of published weights: where they are looked for, and reading them without running anything in them."""

import os
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from diffx.errors import DiffxError
from diffx.store.cache import home

ENDINGS = (".safetensors", ".pth", ".pth.tar", ".pt", ".bin")


def weights_folder() -> Path:
    """Where local weight files are looked for: $DIFFX_WEIGHTS, or `weights` in diffx's cache folder."""
    return Path(os.environ.get("DIFFX_WEIGHTS") or home() / "weights").expanduser()


def local_file(name: str) -> Path | None:
    """The local weights of encoder `name`: NAME.safetensors (or .pth, .pth.tar, .pt, .bin) in the weights folder, or a
    downloaded repository NAME/model.safetensors there."""
    folder = weights_folder()
    places = [folder / f"{name}{ending}" for ending in ENDINGS]
    return next((p for p in [*places, folder / name / "model.safetensors"] if p.is_file()), None)


def read_weights(file: Path, keys: str = "") -> dict[str, Tensor]:
    """The state dict in a file, in which nothing can execute; `keys` picks the names that begin with it.

    Raises:
        DiffxError: not a file of tensors.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        if file.suffix == ".safetensors":
            state: Any = load_file(file)
        else:
            state = torch.load(file, map_location="cpu", weights_only=True)
    except (OSError, RuntimeError, EOFError, SafetensorError, ValueError, KeyError) as error:
        raise DiffxError(f"{file} cannot be read as weights ({str(error).splitlines()[0]}).") from error
    except Exception as error:
        raise DiffxError(f"{file} holds more than tensors, and diffx loads nothing that can execute.") from error
    for outer in ("state_dict", "model"):
        if isinstance(state, dict):
            state = state.get(outer, state)
    if not isinstance(state, dict):
        raise DiffxError(f"{file} holds a {type(state).__name__}, and tensors by name are wanted.")
    found: dict[str, Tensor] = state
    return {k.removeprefix(keys): v for k, v in found.items() if k.startswith(keys)} if keys else found
