"""`prepare import-lightningdit`: latents as LightningDiT's extraction writes them (hustvl/LightningDiT).

    SOURCE/*.safetensors     latents (n, C, h, w), latents_flip of the mirrored images, labels (n,)
           latents_stats.pt  mean and std of each channel, (1, C, 1, 1)

Each latent is one draw of its posterior, made when it was extracted; a preparation of one's own keeps the posterior.
"""

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from safetensors import SafetensorError, safe_open

from diffx.errors import DiffxError
from diffx.frozen.latent_statistics import read_statistics
from diffx.prepare.job import SHARD, Job, Process, Put, Row, cut, store
from diffx.prepare.limits import Limits, check_count, name_fault

LATENTS, FLIPPED, LABELS = "latents", "latents_flip", "labels"
ROWS = 256  # read at a time


class File(NamedTuple):
    """One of the source's files: how many rows it has, the shape of one, its labels, and whether it has flips."""

    path: Path
    rows: int
    shape: tuple[int, ...]
    labels: list[int]
    flips: bool


def import_lightningdit(
    source: Path, root: Path, autoencoder: str = "va_vae", shard_size: int = SHARD, limits: Limits | None = None
) -> dict[str, Any] | None:
    """Write root/latents, and root/latents-flipped where the source has those: float16, shift and scale those of
    latents_stats.pt. A sample is called FILE/ROW, in the files' order; one whose label is no class, or whose latents
    are not finite in float16, is left out and named. Returns the last manifest once every process is done.

    Raises:
        DiffxError: not LightningDiT's layout, or files and statistics that do not go together.
    """
    limits = limits or Limits()
    check_count("--shard-size", shard_size, SHARD)
    files = [look(path) for path in sorted(source.glob("*.safetensors"))]
    if not files:
        raise DiffxError(f"{source} is not LightningDiT's layout: it has no *.safetensors with latents and labels.")
    shape, flips = agree(files)
    statistics = read_statistics(source)
    if statistics is None:
        raise DiffxError(
            f"{source} has no latents_stats.pt, without which its latents have no scale; LightningDiT's code writes it "
            "when it first opens them, or put the one that was published beside them there."
        )
    shift, scale = statistics
    if len(shift) != shape[0]:
        raise DiffxError(f"{source} has latents of {shape[0]} channels, and latents_stats.pt is of {len(shift)}.")
    keys = [f"{file.path.stem}/{row:06d}" for file in files for row in range(file.rows)]
    labels = [label for file in files for label in file.labels]
    faults = {key: reason for key, label in zip(keys, labels, strict=True) if (reason := name_fault(label, limits))}
    shards = cut(keys, [-1 if key in faults else label for key, label in zip(keys, labels, strict=True)], shard_size)
    facts = {"autoencoder": autoencoder, "posterior": False, "drawn": True, "shift": shift, "scale": scale}
    manifest = None
    for name, folder in ((LATENTS, "latents"), (FLIPPED, "latents-flipped")) if flips else ((LATENTS, "latents"),):
        make = partial(fill, files, shards, faults, name)
        mirrored = {**facts, "flipped": name == FLIPPED}
        manifest = Job(root / folder, mirrored, shards, shape, "float16", make, posterior=False).run(Process.here())
    return manifest


def look(path: Path) -> File:
    """What a file holds, without reading its latents. Raises DiffxError where it is none of LightningDiT's."""
    try:
        with safe_open(path, "np") as file:
            shapes = {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118
            labels = file.get_tensor(LABELS) if LABELS in shapes else None
    except (SafetensorError, OSError) as error:
        raise DiffxError(f"{path} cannot be read as safetensors: {error}.") from error
    if labels is None or LATENTS not in shapes:
        raise DiffxError(f"{path} holds {sorted(shapes)[:4]}, and latents and labels are wanted.")
    rows, *shape = shapes[LATENTS]
    wrong = len(shape) != 3 or labels.shape != (rows,) or labels.dtype.kind not in "iu"
    if wrong or shapes.get(FLIPPED, shapes[LATENTS]) != shapes[LATENTS]:
        said = ", ".join(f"{name} {shapes[name]}" for name in (LATENTS, FLIPPED, LABELS) if name in shapes)
        raise DiffxError(f"{path} holds {said}, and (n, C, h, w) latents and as many whole numbers are wanted.")
    return File(path, rows, tuple(shape), labels.tolist(), FLIPPED in shapes)


def agree(files: list[File]) -> tuple[tuple[int, ...], bool]:
    """The shape of all files' latents, and whether they have flips. Raises DiffxError for the first that differs."""
    first = files[0]
    for file in files:
        if (file.shape, file.flips) != (first.shape, first.flips):
            kinds = [f"{one.path} has latents {one.shape}{' and flips' * one.flips}" for one in (first, file)]
            raise DiffxError(f"{kinds[0]}, and {kinds[1]}; they are not of one extraction.")
    return first.shape, first.flips


def fill(
    files: list[File],
    shards: list[tuple[list[str], list[int]]],
    faults: dict[str, str],
    name: str,
    shard: int,
    put: Put,
) -> None:
    """Pass on the rows of a shard."""
    keys, labels = shards[shard]
    start = sum(len(before) for before, _ in shards[:shard])
    for key, label, array in zip(keys, labels, read_rows(files, name, start, start + len(keys)), strict=True):
        put(Row(key, label, None, faults[key]) if key in faults else store(key, label, array, "float16"))


def read_rows(files: list[File], name: str, start: int, stop: int) -> Iterator[np.ndarray]:
    """Rows `start` to `stop` of all files, counted through."""
    begin = 0
    for file in files:
        first, last = max(start - begin, 0), min(stop - begin, file.rows)
        if first < last:
            with safe_open(file.path, "pt") as opened:
                for row in range(first, last, ROWS):
                    yield from opened.get_slice(name)[row : min(row + ROWS, last)].float().numpy()
        begin += file.rows
