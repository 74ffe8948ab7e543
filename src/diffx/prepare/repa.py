"""`prepare import-repa`: the folders of REPA's own preprocessing, joined by file stem."""

import re
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from diffx.data.shards import read_json
from diffx.errors import DiffxError
from diffx.prepare.images import UNREADABLE
from diffx.prepare.job import SHARD, Array, Job, Process, Put, Row, cut


def import_repa(
    source: Path,
    root: Path,
    autoencoder: str = "stabilityai/sd-vae-ft-mse",
    scale: float = 0.18215,
    shard_size: int = SHARD,
) -> dict[str, Any] | None:
    """Write root/images and root/latents from REPA's source/images/**.png and source/vae-sd/**.npy.

    img00000007.png and img-mean-std-00000007.npy of one folder are one sample, with the label that a dataset.json gives
    either of them; REPA itself pairs the sorted lists by position. A sample without its image, its latents or its label
    is left out and named in the manifest. Returns the manifest of the latents.

    Raises:
        DiffxError: not REPA's layout, two files of one sample, or no sample that is whole.
    """
    images, latents = _by_key(source / "images", ".png"), _by_key(source / "vae-sd", ".npy")
    if not images or not latents:
        raise DiffxError(f"{source} is not REPA's layout: images/**.png and vae-sd/**.npy are expected.")
    labels = _labels(source / "images") | _labels(source / "vae-sd")
    keys = sorted(images.keys() | latents.keys())
    absent = {key: reason for key in keys if (reason := _absence(key, image=images, latents=latents, label=labels))}
    whole = next((key for key in keys if key not in absent), None)
    if whole is None:
        raise DiffxError(
            f"{source} has no sample with image, latents and label; the first, {keys[0]}: {absent[keys[0]]}."
        )
    shards = cut(keys, [labels.get(key, -1) for key in keys], shard_size)
    shape = _image(images[whole]).shape
    facts: dict[str, Any] = {"resolution": shape[-1], "crop": "repa", "classes": []}
    make = partial(_make, shards, images, _image, shape, absent)
    Job(root / "images", facts, shards, shape, "uint8", make).run(Process.here())
    shape = _moments(latents[whole]).shape
    facts = {"autoencoder": autoencoder, "posterior": True, "shift": [0.0], "scale": [scale], "flipped": False}
    make = partial(_make, shards, latents, _moments, shape, absent)
    return Job(root / "latents", facts, shards, shape, "float16", make, posterior=True).run(Process.here())


def _make(
    shards: list[tuple[list[str], list[int]]],
    files: dict[str, Path],
    read: Callable[[Path], Array],
    shape: tuple[int, ...],
    absent: dict[str, str],
    shard: int,
    put: Put,
) -> None:
    for key, label in zip(*shards[shard], strict=True):
        if key in absent:
            put(Row(key, label, None, absent[key]))
            continue
        try:
            array = read(files[key])
        except UNREADABLE as error:
            put(Row(key, label, None, f"{type(error).__name__}: {error}"))
            continue
        if array.shape == shape:
            put(Row(key, label, array))
        else:
            put(Row(key, label, None, f"shape {array.shape} and not {shape}"))


def _by_key(folder: Path, ending: str) -> dict[str, Path]:
    """Files by sample: their folder and the digits that their stem ends with."""
    found: dict[str, Path] = {}
    for file in sorted(folder.rglob(f"*{ending}")):
        key = _key(file.relative_to(folder).as_posix())
        if key in found:
            raise DiffxError(f"{found[key]} and {file} are both sample {key}; remove one.")
        found[key] = file
    return found


def _key(name: str) -> str:
    path = Path(name)
    digits = re.search(r"\d+$", path.stem)
    return (path.parent / (digits.group() if digits else path.stem)).as_posix()


def _labels(folder: Path) -> dict[str, int]:
    file = folder / "dataset.json"
    return {_key(name): int(label) for name, label in read_json(file)["labels"]} if file.exists() else {}


def _absence(key: str, **parts: dict[str, Any]) -> str:
    missing = [name for name, part in parts.items() if key not in part]
    return f"no {' and no '.join(missing)}" if missing else ""


def _image(file: Path) -> Array:
    with Image.open(file) as image:
        return np.asarray(image.convert("RGB")).transpose(2, 0, 1)


def _moments(file: Path) -> Array:
    """Mean and standard deviation (2C, h, w); REPA's files may have a first axis of one."""
    array = np.load(file, allow_pickle=False)
    return array.reshape(array.shape[-3:]).astype(np.float16)
