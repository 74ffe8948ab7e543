"""Files of tensors with a seal: safetensors whose metadata say what they are of, and a checksum of all of it."""

import json
import zlib
from collections.abc import Mapping
from pathlib import Path

from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, uint8

from diffx.errors import DiffxError

SEAL = "seal"


def write_sealed(tensors: Mapping[str, Tensor], facts: Mapping[str, str], path: Path) -> None:
    """Write a file in place; who calls this renames it."""
    whole = {name: tensor.contiguous() for name, tensor in tensors.items()}
    save_file(whole, path, {**facts, SEAL: seal_of(whole, facts)})


def read_sealed(path: Path) -> dict[str, Tensor]:
    """The tensors, after comparing the seal; a file without one is read with a line that says so.

    Raises:
        DiffxError: there is no such file, it is no safetensors file, or what is in it is not what was written.
    """
    facts = facts_of(path)
    try:
        tensors = load_file(path)
    except (SafetensorError, OSError) as error:
        raise DiffxError(f"{path} cannot be read as safetensors: {error}.") from error
    seal = facts.pop(SEAL, None)
    if seal is None and not facts.keys() - {"format"}:
        print(f"{path} has no checksum: it was written before diffx put them, and is taken as it is.", flush=True)
    elif seal != seal_of(tensors, facts):
        raise DiffxError(
            f"{path} is damaged: its content does not have the checksum that it was written with. Copy it anew, or "
            "train the run on, which writes it again."
        )
    return tensors


def facts_of(path: Path) -> dict[str, str]:
    """What a file says that it is of. Raises DiffxError where it is missing or no safetensors file."""
    if not path.is_file():
        raise DiffxError(f"{path} does not exist: the run has no checkpoint yet. Train it first.")
    try:
        with safe_open(path, "pt") as file:
            return dict(file.metadata() or {})
    except (SafetensorError, OSError) as error:
        raise DiffxError(f"{path} cannot be read as safetensors: {error}.") from error


def seal_of(tensors: Mapping[str, Tensor], facts: Mapping[str, str]) -> str:
    """CRC-32 of names, types, shapes, bytes and facts, which no flipped bit leaves as it is."""
    value = zlib.crc32(json.dumps(dict(facts), sort_keys=True).encode())
    for name in sorted(tensors):
        tensor = tensors[name]
        value = zlib.crc32(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode(), value)
        value = zlib.crc32(tensor.contiguous().cpu().reshape(-1).view(uint8).numpy().data, value)
    return f"{value:08x}"
