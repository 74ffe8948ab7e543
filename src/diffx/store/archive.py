"""torch's archives with a seal: what they are of and a checksum of every byte, in the comment that a zip file may end
with. Other readers pass over it."""

import json
import struct
import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO

import torch

from diffx.errors import DiffxError
from diffx.store.sealed import SEAL

END = b"PK\x05\x06"  # of a zip file: 22 bytes, the last two the length of the comment that follows
LENGTH = struct.Struct("<H")
CHUNK = 1 << 24


class _Summed:
    """A file that knows the checksum of what was written."""

    def __init__(self, file: BinaryIO) -> None:
        self.file, self.crc32 = file, 0

    def write(self, data: bytes) -> int:
        self.crc32 = zlib.crc32(data, self.crc32)
        return self.file.write(data)

    def flush(self) -> None:
        self.file.flush()


def write_archive(content: Any, facts: Mapping[str, str], path: Path) -> None:
    """Write a file in place; who calls this renames it."""
    with path.open("wb") as file:
        summed = _Summed(file)
        torch.save(content, summed)  # type: ignore[arg-type]  # it only writes
        comment = json.dumps({**facts, SEAL: _seal(summed.crc32, facts)}).encode()
        file.seek(-LENGTH.size, 2)
        file.write(LENGTH.pack(len(comment)) + comment)


def check_archive(path: Path) -> dict[str, str]:
    """What a file says that it is of, after comparing its seal; it is read once, from its first byte to its last. One
    without a seal, of an earlier diffx, has its members' own checksums compared.

    Raises:
        FileNotFoundError: there is none.
        DiffxError: it is not what was written.
    """
    with path.open("rb") as file:
        size = file.seek(0, 2)
        file.seek(max(0, size - (1 << 16) - 22))
        tail = file.read()
        end = tail.rfind(END)
        comment = tail[end + 22 :] if end >= 0 else b""
        if not comment:
            _check_members(path)
            return {}
        file.seek(0)
        whole = _crc32(file, size - len(comment) - LENGTH.size)
    try:
        facts: dict[str, str] = json.loads(comment)
        seal = facts.pop(SEAL)
        length = LENGTH.unpack(tail[end + 20 : end + 22])[0]
        intact = length == len(comment) and seal == _seal(zlib.crc32(LENGTH.pack(0), whole), facts)
    except (ValueError, KeyError, AttributeError, TypeError):
        intact = False
    if not intact:
        raise DiffxError(f"{path} is damaged: its content does not have the checksum that it was written with.")
    return facts


def _seal(crc32: int, facts: Mapping[str, str]) -> str:
    return f"{zlib.crc32(json.dumps(dict(facts), sort_keys=True).encode(), crc32):08x}"


def _crc32(file: BinaryIO, size: int) -> int:
    value = 0
    while size > 0 and (chunk := file.read(min(CHUNK, size))):
        value, size = zlib.crc32(chunk, value), size - len(chunk)
    return value


def _check_members(path: Path) -> None:
    try:
        with zipfile.ZipFile(path) as file:
            broken = file.testzip()  # torch.load reads flipped bits without a word
    except (zipfile.BadZipFile, OSError, ValueError, EOFError, zlib.error, NotImplementedError) as error:
        raise DiffxError(f"{path} is damaged ({error}).") from error
    if broken:
        raise DiffxError(f"{path} is damaged: {broken} does not have its checksum.")
