"""A preparation: a fixed list of samples cut into shards, each made by one process, until none is left."""

import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from diffx.data.shards import FORMAT, ShardWriter, checksum_of, note_checksum, read_json, read_note, write_json
from diffx.errors import DiffxError
from diffx.run.counting import Counting

Array = np.ndarray[Any, Any]

SHARD = 8192
"""Rows per shard: ImageNet is then 157 files of each kind, few enough to keep all of them mapped."""


class Process(NamedTuple):
    """This process among those that torchrun started; alone without it."""

    rank: int
    world: int
    local_rank: int
    local_world: int

    @classmethod
    def here(cls) -> "Process":
        names = (("RANK", 0), ("WORLD_SIZE", 1), ("LOCAL_RANK", 0), ("LOCAL_WORLD_SIZE", 1))
        return cls(*(int(os.environ.get(name, default)) for name, default in names))


class Row(NamedTuple):
    """A finished sample on its way into a shard; `array` None: refused, because of `reason`."""

    key: str
    label: int
    array: Array | None
    reason: str = ""


Put = Callable[[Row], None]


def store(key: str, label: int, array: Array, dtype: str) -> Row:
    """The row as it is stored; refused where it is not finite in that type."""
    with np.errstate(over="ignore"):
        stored = array.astype(dtype)
    if not np.isfinite(stored).all():
        return Row(key, label, None, f"not finite in {dtype}")
    return Row(key, label, stored)


@dataclass(frozen=True)
class Job:
    """What is to be made.

    facts: all that determines the rows beside the samples; a folder begun with other facts is refused.
    shards: for each shard its samples as (keys, labels), fixed before the first one is made.
    shape, dtype: of a row.
    make: passes on the rows of shard i, in any order.
    unit: what the time is counted in, "gpu_hours" or "cpu_hours".
    posterior: for latents, whether rows are means and standard deviations; None: rows have no channel statistics.
    """

    folder: Path
    facts: dict[str, Any]
    shards: list[tuple[list[str], list[int]]]
    shape: tuple[int, ...]
    dtype: str
    make: Callable[[int, Put], None]
    unit: str = "cpu_hours"
    posterior: bool | None = None

    def run(self, process: Process) -> dict[str, Any] | None:
        """Make this process's shards that are not there yet; returns the manifest once all are, else None.

        Raises:
            DiffxError: the folder was begun from other samples or settings, or cannot be written.
        """
        try:
            self._begin()
            mine = range(process.rank, len(self.shards), process.world)
            with Counting(
                self.folder.name, sum(len(self.shards[i][0]) for i in mine), process.rank, process.world
            ) as progress:
                for shard in mine:
                    if read_note(self.folder, shard) is None:
                        self._make(shard, progress)
                    else:
                        progress.skip(len(self.shards[shard][0]))
            return self._finish()
        except OSError as error:
            raise DiffxError(
                f"{self.folder} cannot be written ({error.strerror or error}). Finished shards are safe: make room and "
                "type the same command again to go on."
            ) from error

    def _begin(self) -> None:
        listing = {"facts": self.facts, "shards": self.shards}
        file = self.folder / "listing.json"
        if not file.exists():
            self.folder.mkdir(parents=True, exist_ok=True)
            write_json(file, listing)
            return
        begun = read_json(file)
        for key, value in self.facts.items():
            if begun["facts"].get(key) != value:
                raise DiffxError(
                    f"{self.folder} was begun with {key}={begun['facts'].get(key)} and not {value}; "
                    "type the first command again, or another folder."
                )
        if [tuple(shard) for shard in begun["shards"]] != self.shards:
            before = sum(len(keys) for keys, _ in begun["shards"])
            now = sum(len(keys) for keys, _ in self.shards)
            raise DiffxError(
                f"{self.folder} was begun with {before} samples; the source ({now} now) or the shard size has changed "
                "since, and shards of both would not fit together. Type another folder."
            )

    def _make(self, shard: int, progress: Counting) -> None:
        keys, _ = self.shards[shard]
        writer = ShardWriter(self.folder, shard, self.shape, self.dtype, len(keys))
        rejected: list[tuple[str, str]] = []
        channels: Any = 0.0

        def put(row: Row) -> None:
            nonlocal channels
            if row.array is None:
                rejected.append((row.key, row.reason))
            else:
                writer.add(row.key, row.label, row.array)
                if self.posterior is not None:
                    channels = channels + channel_sums(row.array, self.posterior)
            progress.advance()

        start = time.perf_counter()
        self.make(shard, put)
        writer.close(
            rejected,
            unit=self.unit,
            seconds=time.perf_counter() - start,
            channels=channels.tolist() if writer.keys and self.posterior is not None else [],
        )

    def _finish(self) -> dict[str, Any] | None:
        notes = [read_note(self.folder, shard) for shard in range(len(self.shards))]
        done = [note for note in notes if note is not None]
        if len(done) < len(notes):
            return None
        manifest = summary(self.facts, self.shape, self.dtype, done)
        write_json(self.folder / "manifest.json", manifest)
        return manifest


def summary(facts: dict[str, Any], shape: Sequence[int], dtype: str, notes: list[dict[str, Any]]) -> dict[str, Any]:
    """The manifest of finished shards, from the notes beside them."""
    cost: dict[str, float] = {}
    for note in notes:
        cost[note["unit"]] = cost.get(note["unit"], 0.0) + note["seconds"] / 3600
    checksums = [note_checksum(note) for note in notes]
    return {
        "format": FORMAT,
        "facts": facts,
        "samples": sum(len(note["keys"]) for note in notes),
        "rejected": [pair for note in notes for pair in note["rejected"]],
        "shape": shape,
        "dtype": dtype,
        "checksum": checksum_of(checksums),
        "cost": cost,
        "statistics": channel_statistics([n["channels"] for n in notes if n.get("channels")]),
        "shards": [{"samples": len(n["keys"]), "crc32": c} for n, c in zip(notes, checksums, strict=True)],
    }


def cut(keys: Sequence[str], labels: Sequence[int], size: int) -> list[tuple[list[str], list[int]]]:
    """Samples in shards of `size`."""
    return [(list(keys[i : i + size]), list(labels[i : i + size])) for i in range(0, len(keys), size)]


def channel_sums(moments: Array, posterior: bool) -> Array:
    """Sums over a sample's raw moments (2C or C, h, w) by channel, float64 (3, C): count, value, square.

    A draw z from the posterior has E[z²] = mean² + std².
    """
    values = moments.astype(np.float64)
    mean, std = np.split(values, 2) if posterior else (values, np.zeros_like(values))
    count = np.full(len(mean), mean[0].size, dtype=np.float64)
    return np.stack([count, mean.sum((1, 2)), (mean**2 + std**2).sum((1, 2))])


def channel_statistics(sums: Sequence[Any]) -> dict[str, list[float]]:
    """Mean and standard deviation of each channel of raw latents, from the channel_sums of all shards."""
    if not sums:
        return {}
    count, value, square = np.sum(np.asarray(sums, dtype=np.float64), axis=0)
    mean = value / count
    return {"mean": mean.tolist(), "std": np.sqrt(square / count - mean**2).tolist()}
