"""`prepare verify`: finds and names samples that are missing, doubled, corrupt or labelled twice."""

import math
import zlib
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np

from diffx.data.shards import read_json, read_note, shard_file
from diffx.errors import DiffxError


class Problem(NamedTuple):
    """What is wrong with sample `key` in the shards of `folder`. kind: missing, doubled, corrupt, label, unfinished."""

    kind: str
    folder: str
    key: str
    shard: int


def verify(root: Path) -> list[Problem]:
    """All problems of all shards in `root`: within each folder, and against the images.

    Images that preparation refused, and named, are no problem. Every row is read and its CRC-32 compared.

    Raises:
        DiffxError: nothing was prepared there.
    """
    folders = sorted(file.parent for file in root.glob("*/listing.json"))
    if not folders:
        raise DiffxError(f"{root} holds nothing prepared; type `python -m diffx.prepare images SRC {root}`.")
    labels = {folder.name: dict[str, int]() for folder in folders}
    problems = [problem for folder in folders for problem in _verify(folder, labels[folder.name])]
    images = labels.get("images", {})
    for folder in folders:
        for key, label in labels[folder.name].items():
            if images.get(key, label) != label:
                problems.append(Problem("label", folder.name, key, -1))
    return problems


def _verify(folder: Path, labels: dict[str, int]) -> Iterator[Problem]:
    """Problems of one folder; fills `labels` with what is there."""
    counts: Counter[str] = Counter()
    for shard, (wanted, _) in enumerate(read_json(folder / "listing.json")["shards"]):
        note = read_note(folder, shard)
        if note is None:
            yield from (Problem("unfinished", folder.name, key, shard) for key in wanted)
            continue
        refused = {key for key, _ in note["rejected"]}
        counts.update(note["keys"])
        labels.update(zip(note["keys"], note["labels"], strict=True))
        for key in wanted:
            if key not in refused and key not in labels:
                yield Problem("missing", folder.name, key, shard)
        file = folder / shard_file(shard)
        damage = "corrupt" if file.exists() else "missing"
        intact = _intact(file, note["crc32"])
        for key, whole in zip(note["keys"], intact, strict=True):
            if counts[key] > 1:
                yield Problem("doubled", folder.name, key, shard)
            if not whole:
                yield Problem(damage, folder.name, key, shard)


def _intact(file: Path, crc32: list[int]) -> list[bool]:
    """For each row of a shard, whether it is there and has its checksum, also in a file that was cut short."""
    try:
        with file.open("rb") as rows:
            np.lib.format.read_magic(rows)
            shape, _, dtype = np.lib.format.read_array_header_1_0(rows)
            size = math.prod(shape[1:]) * dtype.itemsize
            return [zlib.crc32(rows.read(size)) == expected for expected in crc32]
    except (OSError, ValueError):
        return [False] * len(crc32)
