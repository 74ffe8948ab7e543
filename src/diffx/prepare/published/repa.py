"""`prepare import-repa`: the folders of REPA's own preprocessing, joined by file stem."""

import io
import math
import re
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from diffx.errors import DiffxError
from diffx.pixels.decode import Refused, decode, pillow_allows, read_file
from diffx.prepare.job import SHARD, Array, Job, Process, Put, Row, cut
from diffx.prepare.limits import Limits, check_count, name_fault
from diffx.prepare.listing import read_labels


def import_repa(
    source: Path,
    root: Path,
    autoencoder: str = "stabilityai/sd-vae-ft-mse",
    scale: float = 0.18215,
    shard_size: int = SHARD,
    limits: Limits | None = None,
) -> dict[str, Any] | None:
    """Write root/images and root/latents from REPA's source/images/**.png and source/vae-sd/**.npy.

    img00000007.png and img-mean-std-00000007.npy of one folder are one sample, with the label that a dataset.json gives
    either of them; REPA itself pairs the sorted lists by position. A sample without its image, its latents or its label
    is left out and named in the manifest. Returns the manifest of the latents.

    Raises:
        DiffxError: not REPA's layout, two files of one sample, or no sample that is whole.
    """
    limits = limits or Limits()
    check_count("--shard-size", shard_size, SHARD)
    if not (math.isfinite(scale) and scale):
        raise DiffxError(f"--scale {scale} is no scaling factor; type --scale 0.18215, SD-VAE's.")
    images, latents = _by_key(source / "images", ".png"), _by_key(source / "vae-sd", ".npy")
    if not images or not latents:
        raise DiffxError(f"{source} is not REPA's layout: images/**.png and vae-sd/**.npy are expected.")
    labels = _labels(source / "images") | _labels(source / "vae-sd")
    keys = sorted(images.keys() | latents.keys())
    absent = {key: reason for key in keys if (reason := _absence(key, image=images, latents=latents, label=labels))}
    absent |= {key: reason for key in keys if key not in absent and (reason := name_fault(labels[key], limits))}
    if not any(key not in absent for key in keys):
        raise DiffxError(
            f"{source} has no sample with image, latents and label; the first, {keys[0]}: {absent[keys[0]]}."
        )
    shards = cut(keys, [-1 if key in absent else labels[key] for key in keys], shard_size)
    read_image, read_moments = partial(_image, limits=limits), partial(_moments, limits=limits)
    shape = _first_shape(images, keys, absent, read_image)
    facts: dict[str, Any] = {"resolution": shape[-1], "crop": "repa", "classes": []}
    make = partial(_make, shards, images, read_image, shape, absent)
    with pillow_allows(limits.pixels):
        Job(root / "images", facts, shards, shape, "uint8", make).run(Process.here())
    shape = _first_shape(latents, keys, absent, read_moments)
    facts = {"autoencoder": autoencoder, "posterior": True, "shift": [0.0], "scale": [scale], "flipped": False}
    make = partial(_make, shards, latents, read_moments, shape, absent)
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
        except Refused as reason:
            put(Row(key, label, None, str(reason)))
            continue
        except Exception as error:  # of whatever kind: one sample stops no other
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


def _labels(folder: Path) -> dict[str, Any]:
    file = folder / "dataset.json"
    return {_key(name): label for name, label in read_labels(file).items()} if file.exists() else {}


def _first_shape(
    files: dict[str, Path], keys: list[str], absent: dict[str, str], read: Callable[[Path], Array]
) -> tuple[int, ...]:
    """Of the first sample that can be read, which all others have to have too."""
    first = ""
    for key in keys:
        if key not in absent:
            try:
                return read(files[key]).shape
            except Exception as error:  # a bad sample, which is named where it is left out
                first = first or f"{files[key]} and all files after it cannot be read: {error}."
    raise DiffxError(first)


def _absence(key: str, **parts: dict[str, Any]) -> str:
    missing = [name for name, part in parts.items() if key not in part]
    return f"no {' and no '.join(missing)}" if missing else ""


def _image(file: Path, limits: Limits) -> Array:
    return np.asarray(decode(read_file(file, limits.bytes), limits.pixels)).transpose(2, 0, 1)


def _moments(file: Path, limits: Limits) -> Array:
    """Mean and standard deviation (2C, h, w); REPA's files may have a first axis of one."""
    array = np.load(io.BytesIO(read_file(file, limits.bytes)), allow_pickle=False)
    with np.errstate(over="ignore"):
        moments: Array = array.reshape(array.shape[-3:]).astype(np.float16)
    if moments.ndim != 3 or len(moments) % 2 or not np.isfinite(moments).all():
        raise Refused(f"shape {moments.shape} is not mean and standard deviation, or not finite in float16")
    return moments
