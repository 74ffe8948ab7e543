"""Shards: a folder of .npy files whose rows have keys and labels, written once and read by row.

    FOLDER/manifest.json       what the rows are, how many, checksums, statistics; once it is there, all of it is
           listing.json        facts and the key and label of every sample that was asked for; written first
           shard-00000.npy     (n, ...) rows
           shard-00000.json    keys, labels and CRC-32 of its rows, in order, and the samples that were refused

A shard counts only once its .json is there, and both are put in place by a rename. So a killed preparation loses at
most the shards being written, and none is written twice.
"""

import fcntl
import io
import json
import os
import zlib
from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from diffx.errors import DiffxError
from diffx.store.remote import RemotePath
from diffx.store.whole_file import write_text

FORMAT = 1


class Rows(ABC):
    """The rows of the finished shards of one folder, wherever it is.

    folder, manifest: where, and what manifest.json says. starts: the row that each shard begins with, and how many
    there are in all.
    """

    folder: Path | RemotePath

    def __init__(self, manifest: dict[str, Any]) -> None:
        self.manifest = manifest
        counts = [shard["samples"] for shard in manifest["shards"]]
        self.starts = np.concatenate([[0], np.cumsum(counts, dtype=np.int64)])

    def __len__(self) -> int:
        return int(self.starts[-1])

    @property
    def shape(self) -> tuple[int, ...]:
        """Of one row."""
        return tuple(self.manifest["shape"])

    @property
    def dtype(self) -> np.dtype[Any]:
        return np.dtype(self.manifest["dtype"])

    @property
    def row_bytes(self) -> int:
        return int(np.prod(self.shape)) * self.dtype.itemsize

    def locate(self, rows: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """The shards (B,) that hold these rows, and their places there."""
        shards = np.searchsorted(self.starts, rows, side="right") - 1
        return shards, rows - self.starts[shards]

    @abstractmethod
    def read(self, rows: NDArray[np.int64]) -> NDArray[Any]:
        """The rows (B, ...) as a new array, in the order asked for. Raises DiffxError where one cannot be had."""

    @abstractmethod
    def index(self) -> tuple[NDArray[np.bytes_], NDArray[np.int64]]:
        """Keys (N,) as UTF-8 bytes and labels (N,) of all rows, in order."""


class Shards(Rows):
    """On this machine: memory-mapped when first read; safe to fork, and pickled without the maps. Open one with
    `open_shards`. Behind a URL they are diffx.data.remote_shards.RemoteShards."""

    folder: Path

    def __init__(self, folder: Path, manifest: dict[str, Any]) -> None:
        super().__init__(manifest)
        self.folder = folder
        self._maps: dict[int, NDArray[Any]] = {}

    def read(self, rows: NDArray[np.int64]) -> NDArray[Any]:
        out = np.empty((len(rows), *self.shape), self.dtype)
        shards, places = self.locate(rows)
        for place, (shard, row) in enumerate(zip(shards.tolist(), places.tolist(), strict=True)):
            rows_of = self._maps.get(shard)
            out[place] = (self._map(shard) if rows_of is None else rows_of)[row]
        return out

    def _map(self, shard: int) -> NDArray[Any]:
        path = self.folder / shard_file(shard)
        try:
            # A view as a plain array: indexing a np.memmap costs more than reading the row.
            mapped = np.load(path, mmap_mode="r", allow_pickle=False).view(np.ndarray)
        except (OSError, ValueError) as error:
            raise DiffxError(f"{path} cannot be read ({error}); type {verify_command(self.folder)}.") from error
        if (mapped.shape[1:], mapped.dtype) != (self.shape, self.dtype):
            raise DiffxError(
                f"{path} holds rows of {mapped.dtype} {mapped.shape[1:]}, and the manifest says {self.dtype} "
                f"{self.shape}; type {verify_command(self.folder)}."
            )
        return self._maps.setdefault(shard, mapped)

    def index(self) -> tuple[NDArray[np.bytes_], NDArray[np.int64]]:
        keys: list[bytes] = []
        labels: list[int] = []
        for shard in range(len(self.manifest["shards"])):
            note = read_note(self.folder, shard)
            if note is None:
                raise DiffxError(f"{self.folder / note_file(shard)} is missing; type {verify_command(self.folder)}.")
            keys += [key.encode() for key in note["keys"]]
            labels += note["labels"]
        return np.array(keys, dtype=np.bytes_), np.array(labels, dtype=np.int64)

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_maps": {}}


def open_shards(folder: Path, prepare: str) -> Shards:
    """The shards in `folder`. `prepare` is the command that makes them, for the sentence when they are not there.

    Raises:
        DiffxError: there are none, the preparation did not end, or another version of diffx wrote them.
    """
    file = folder / "manifest.json"
    if not file.exists():
        if (folder / "listing.json").exists():
            raise DiffxError(f"{folder} is prepared only in part; type {prepare} again to go on.")
        raise DiffxError(f"{folder} does not exist; type {prepare}.")
    manifest = read_json(file)
    if manifest.get("format") != FORMAT:
        raise DiffxError(f"{file} has format {manifest.get('format')}, and this diffx reads {FORMAT}; prepare it anew.")
    return Shards(folder, manifest)


def join(wanted: NDArray[np.bytes_], have: NDArray[np.bytes_]) -> NDArray[np.int64]:
    """For each key of `wanted`, its row in `have`, or -1 where it has none. Order and extra keys do not matter."""
    if len(wanted) == len(have) and bool((wanted == have).all()):
        return np.arange(len(have))
    if len(have) == 0:
        return np.full(len(wanted), -1)
    order = np.argsort(have, kind="stable")
    rows = order[np.searchsorted(have[order], wanted).clip(max=len(have) - 1)]
    return np.where(have[rows] == wanted, rows, -1)


class ShardWriter:
    """Writes one shard row by row; nothing of it counts before close().

    A lock on the unfinished file, which ends with the process, keeps two processes off the same shard.

    Raises:
        DiffxError: another process is writing this shard.
    """

    def __init__(self, folder: Path, shard: int, shape: Sequence[int], dtype: str, capacity: int) -> None:
        self.folder, self.shard, self.shape, self.dtype = folder, shard, tuple(shape), np.dtype(dtype)
        self.keys: list[str] = []
        self.labels: list[int] = []
        self.crc32: list[int] = []
        self._capacity = capacity
        self._partial = folder / f"{shard_file(shard)}.partial"
        self._file: BinaryIO = os.fdopen(os.open(self._partial, os.O_RDWR | os.O_CREAT, 0o666), "r+b")
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            self._file.close()
            raise DiffxError(f"Another process is preparing {folder}; wait for it or stop it.") from error
        self._file.truncate()
        self._file.write(self._header(capacity))

    def add(self, key: str, label: int, row: NDArray[Any]) -> None:
        data = np.ascontiguousarray(row, self.dtype)
        assert data.shape == self.shape, f"{key}: {data.shape} is not {self.shape}"
        self._file.write(data.data)
        self.keys.append(key)
        self.labels.append(label)
        self.crc32.append(zlib.crc32(data.data))

    def close(self, rejected: Sequence[tuple[str, str]] = (), **notes: Any) -> None:
        """Put the shard in place, with the samples that were refused and why, and other `notes`."""
        self._file.seek(0)
        self._file.write(self._header(len(self.keys)))
        self._file.flush()
        os.fsync(self._file.fileno())
        os.replace(self._partial, self.folder / shard_file(self.shard))
        facts = {"keys": self.keys, "labels": self.labels, "crc32": self.crc32, "rejected": list(rejected), **notes}
        write_json(self.folder / note_file(self.shard), facts)
        self._file.close()

    def _header(self, count: int) -> bytes:
        return npy_header(count, self.shape, self.dtype)


def npy_header(count: int, shape: Sequence[int], dtype: np.dtype[Any]) -> bytes:
    """What an .npy file of `count` rows begins with: NumPy leaves room in it, so that it can be rewritten in place."""
    buffer = io.BytesIO()
    facts = {"descr": dtype.str, "fortran_order": False, "shape": (count, *shape)}
    np.lib.format.write_array_header_1_0(buffer, facts)
    return buffer.getvalue()


def shard_file(shard: int) -> str:
    return f"shard-{shard:05d}.npy"


def note_file(shard: int) -> str:
    return f"shard-{shard:05d}.json"


def read_note(folder: Path, shard: int) -> dict[str, Any] | None:
    """What is known of a finished shard, or None if it is not finished."""
    file = folder / note_file(shard)
    return read_json(file) if file.exists() else None


def note_checksum(note: dict[str, Any]) -> str:
    """What manifest.json says of a shard: a checksum of its keys, labels and rows."""
    return checksum_of([note["keys"], note["labels"], note["crc32"]])


def checksum_of(facts: Any) -> str:
    return f"{zlib.crc32(repr(facts).encode()):08x}"


def verify_command(folder: Path | RemotePath) -> str:
    return f"`python -m diffx.prepare verify {folder.parent if isinstance(folder, Path) else 'FOLDER'}`"


def read_json(file: Path) -> Any:
    try:
        return json.loads(file.read_text())
    except (OSError, ValueError) as error:
        raise DiffxError(f"{file} cannot be read ({error}).") from error


def write_json(file: Path, facts: Any) -> None:
    """Replace `file` in one step."""
    write_text(file, json.dumps(facts) + "\n")
