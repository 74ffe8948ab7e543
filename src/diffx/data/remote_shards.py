"""Shards behind a URL: rows are read by ranges of bytes, and every one is compared with its CRC-32."""

import json
import zlib
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from diffx.data.shards import FORMAT, Rows, note_checksum, note_file, npy_header, open_shards, shard_file
from diffx.errors import DiffxError
from diffx.store import cache
from diffx.store.digest import digest
from diffx.store.remote import Range, RemotePath

AT_ONCE, PIECE = 2**28, 2**23  # bytes that are asked for together, and of one range
NOTES = 64  # small files that are asked for together


class RemoteShards(Rows):
    """Behind a URL, where neighbours come in one range of bytes; open one with `open_rows`.

    Keys, labels and checksums of all rows are read once and kept in diffx's cache folder (`index`).
    """

    folder: RemotePath

    def __init__(self, folder: RemotePath, manifest: dict[str, Any]) -> None:
        super().__init__(manifest)
        self.folder = folder

    def read(self, rows: NDArray[np.int64]) -> NDArray[Any]:
        out = np.empty((len(rows), *self.shape), self.dtype)
        places = np.argsort(rows, kind="stable")
        step = max(1, AT_ONCE // self.row_bytes)
        for start in range(0, len(rows), step):
            self._read_into(out, rows, places[start : start + step])
        return out

    def index(self) -> tuple[NDArray[np.bytes_], NDArray[np.int64]]:
        return self._index["keys"], self._index["labels"]

    def _read_into(self, out: NDArray[Any], rows: NDArray[np.int64], places: NDArray[np.int64]) -> None:
        """Put rows[places], which rise, at these places of `out`."""
        wanted = rows[places]
        shards, own = self.locate(wanted)
        ends = np.flatnonzero((np.diff(wanted) != 1) | (np.diff(shards) != 0)) + 1
        pieces = np.arange(0, len(wanted), max(1, PIECE // self.row_bytes))[1:]
        runs = np.split(np.arange(len(wanted)), np.union1d(ends, pieces))
        ranges = [self._range(int(shards[run[0]]), int(own[run[0]]), len(run)) for run in runs]
        whole = out.reshape(len(out), -1).view(np.uint8)
        for run, content in zip(runs, self.folder.read_ranges(ranges), strict=True):
            for i, row in zip(run, np.frombuffer(content, np.uint8).reshape(len(run), -1), strict=True):
                self._check(wanted[i], row)
                whole[places[i]] = row

    def _range(self, shard: int, row: int, count: int) -> Range:
        """Of `count` rows of a shard, from this one of its own on."""
        header = len(npy_header(self.manifest["shards"][shard]["samples"], self.shape, self.dtype))
        start = header + row * self.row_bytes
        return Range(shard_file(shard), start, start + count * self.row_bytes)

    def _check(self, row: int, content: NDArray[np.uint8]) -> None:
        if zlib.crc32(content.data) != self._index["crc32"][row]:
            shard = int(self.locate(np.array(row))[0])
            key = self._index["keys"][row].decode()
            raise DiffxError(
                f"{self.folder / shard_file(shard)} is not what was prepared: {key} has another checksum; it was "
                "replaced or damaged. Copy the whole prepared folder there again."
            )

    @cached_property
    def _index(self) -> dict[str, NDArray[Any]]:
        facts = {"url": self.folder.url, "checksum": self.manifest["checksum"], "rows": len(self)}
        path = cache.home() / "index" / f"{self.folder.name}-{digest(facts)}.npz"
        cache.entry(path, facts, self._write_index)
        with np.load(path, allow_pickle=False) as file:
            return dict(file)

    def _write_index(self, path: Path) -> dict[str, Any]:
        keys: list[bytes] = []
        numbers: dict[str, list[int]] = {"labels": [], "crc32": []}
        for note in self._notes():
            keys += [key.encode() for key in note["keys"]]
            for name, values in numbers.items():
                values += note[name]
        labels, crc32 = np.array(numbers["labels"], np.int64), np.array(numbers["crc32"], np.uint32)
        np.savez(path, keys=np.array(keys, np.bytes_), labels=labels, crc32=crc32)
        return {}

    def _notes(self) -> Iterator[dict[str, Any]]:
        """What stands beside the shards, one after the other."""
        names = [note_file(shard) for shard in range(len(self.manifest["shards"]))]
        for start in range(0, len(names), NOTES):
            some = names[start : start + NOTES]
            for shard, content in enumerate(self.folder.read_many(some), start):
                try:
                    note = json.loads(content)
                    whole = note_checksum(note) == self.manifest["shards"][shard]["crc32"]
                except (ValueError, KeyError, TypeError):
                    whole = False
                if not whole:
                    raise DiffxError(
                        f"{self.folder / names[shard]} is of another preparation than manifest.json beside it, or "
                        "damaged; copy the whole prepared folder there again."
                    )
                yield note


def open_rows(folder: Path | RemotePath, prepare: str) -> Rows:
    """The shards in `folder`, wherever it is. `prepare` is the command that makes them on this machine.

    Raises:
        DiffxError: there are none, the preparation did not end, another version of diffx wrote them, or the storage
            does not give them.
    """
    if isinstance(folder, Path):
        return open_shards(folder, prepare)
    file = folder / "manifest.json"
    try:
        text = file.read_text()
    except FileNotFoundError as error:
        raise DiffxError(
            f"{file} does not exist; prepare the data in a local folder (docs/prepare.md), then copy that to "
            f"{folder.parent}."
        ) from error
    try:
        manifest = json.loads(text)
    except ValueError as error:
        raise DiffxError(f"{file} cannot be read ({error}); copy the whole prepared folder there again.") from error
    if manifest.get("format") != FORMAT:
        raise DiffxError(f"{file} has format {manifest.get('format')}, and this diffx reads {FORMAT}; prepare it anew.")
    return RemoteShards(folder, manifest)
