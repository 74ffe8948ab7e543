"""`prepare verify`: finds and names samples that are missing, doubled, corrupt or labelled twice, and manifests that
say something else than the shards."""

import json
import math
import zlib
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from diffx.data.shards import note_file, read_json, read_note, shard_file
from diffx.errors import DiffxError
from diffx.prepare.job import summary

MANIFEST = "manifest.json"
Header = tuple[tuple[int, ...], str]
"""Shape and dtype of a shard's file; what training maps."""


class Problem(NamedTuple):
    """What is wrong with sample `key` in the shards of `folder`, or with its manifest: then `key` says what.
    kind: missing, doubled, corrupt, label, unfinished, manifest."""

    kind: str
    folder: str
    key: str
    shard: int


def verify(root: Path) -> list[Problem]:
    """All problems of all shards in `root`: within each folder, and against the images.

    Images that preparation refused, and named, are no problem. Every row is read and its CRC-32 compared; the manifest
    is made again from the shards and compared.

    Raises:
        DiffxError: nothing was prepared there, or a file of JSON is damaged.
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
    listing = read_json(folder / "listing.json")
    notes, headers = [], set[Header]()
    try:
        for shard, (wanted, _) in enumerate(listing["shards"]):
            note = read_note(folder, shard)
            if note is None:
                yield from (Problem("unfinished", folder.name, key, shard) for key in wanted)
                continue
            notes.append(note)
            refused = {key for key, _ in note["rejected"]}
            counts.update(note["keys"])
            labels.update(zip(note["keys"], note["labels"], strict=True))
            for key in wanted:
                if key not in refused and key not in labels:
                    yield Problem("missing", folder.name, key, shard)
            file = folder / shard_file(shard)
            damage = "corrupt" if file.exists() else "missing"
            header, intact = _read(file, note["crc32"])
            headers |= {header} if header else set()
            for key, whole in zip(note["keys"], intact, strict=True):
                if counts[key] > 1:
                    yield Problem("doubled", folder.name, key, shard)
                if not whole:
                    yield Problem(damage, folder.name, key, shard)
        if len(notes) == len(listing["shards"]):
            yield from _check_manifest(folder, listing["facts"], notes, headers)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise DiffxError(
            f"{folder} has a listing.json or notes beside its shards that diffx did not write ({error!r}); prepare it "
            "anew in another folder."
        ) from error


def _check_manifest(
    folder: Path, facts: dict[str, Any], notes: list[dict[str, Any]], headers: set[Header]
) -> Iterator[Problem]:
    """Where manifest.json says something else than the listing and the shards, or what no latents can be scaled by."""
    if not (folder / MANIFEST).is_file():
        yield Problem("unfinished", folder.name, MANIFEST, -1)
        return
    manifest = read_json(folder / MANIFEST)
    if not isinstance(manifest, dict):
        yield Problem("manifest", folder.name, "it is no mapping", -1)
        return
    if len(headers) > 1:
        yield Problem("manifest", folder.name, f"shards differ in shape or dtype: {sorted(headers)}", -1)
        return
    # With no sample at all there is no file to compare with.
    shape, dtype = headers.pop() if headers else (manifest.get("shape"), manifest.get("dtype"))
    expected = json.loads(json.dumps(summary(facts, shape or (), str(dtype), notes)))
    altered = list(_check_notes(folder, manifest.get("shards"), expected["shards"]))
    yield from altered
    for key in sorted((expected.keys() | manifest.keys()) - ({"shards", "checksum"} if altered else set())):
        said, there = (_shown(whole, key) for whole in (manifest, expected))
        if said != there:
            yield Problem("manifest", folder.name, f"{key} is {said[:80]}, and the shards say {there[:80]}", -1)
    for name, fails in (("scale", lambda x: not math.isfinite(x) or x == 0), ("shift", lambda x: not math.isfinite(x))):
        if any(map(fails, facts.get(name, []))):
            yield Problem("manifest", folder.name, f"{name} {facts[name]} leaves no latents to train on", -1)


def _check_notes(folder: Path, said: Any, there: list[Any]) -> Iterator[Problem]:
    """Shards whose notes are others than those that the manifest was made from."""
    if not isinstance(said, list) or len(said) != len(there):
        count = len(said) if isinstance(said, list) else said
        yield Problem("manifest", folder.name, f"it has {count} shards, and the listing {len(there)}", -1)
        return
    for shard, (one, other) in enumerate(zip(said, there, strict=True)):
        if one != other:
            what = f"{note_file(shard)} holds other keys, labels or checksums than {MANIFEST} was made from"
            yield Problem("manifest", folder.name, what, shard)


def _shown(whole: dict[str, Any], key: str) -> str:
    return json.dumps(whole[key], sort_keys=True) if key in whole else "absent"


def _read(file: Path, crc32: list[int]) -> tuple[Header | None, list[bool]]:
    """What a shard's file says that it is, and for each row, whether it is there and has its checksum, also in a file
    that was cut short."""
    try:
        with file.open("rb") as rows:
            np.lib.format.read_magic(rows)
            (count, *shape), _, dtype = np.lib.format.read_array_header_1_0(rows)
            size = math.prod(shape) * dtype.itemsize
            if count != len(crc32):
                return None, [False] * len(crc32)
            intact = [zlib.crc32(rows.read(size)) == expected for expected in crc32]
            return ((tuple(shape), str(dtype)) if crc32 else None), intact
    except (OSError, ValueError):
        return None, [False] * len(crc32)
