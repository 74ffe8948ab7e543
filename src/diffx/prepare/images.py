"""`prepare images`: centre-cropped uint8 images from a folder, tars or parquet files."""

import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from diffx.pixels.decode import Refused, check_pixels, decode, pillow_allows
from diffx.prepare.job import SHARD, Job, Process, Put, Row, cut
from diffx.prepare.limits import Limits, check_count, check_into
from diffx.prepare.source import Sample, list_source, read_bytes


def prepare_images(
    source: str,
    root: Path,
    resolution: int,
    into: str = "images",
    shard_size: int = SHARD,
    limits: Limits | None = None,
) -> dict[str, Any] | None:
    """Write the images of `source` as root/`into`; returns the manifest once every process is done.

    Images that cannot be decoded, or are beyond a limit, are left out and named in the manifest, with the reason.

    Raises:
        DiffxError: a source without images, a number that cannot be, or a folder begun differently.
    """
    limits = limits or Limits()
    limits.check_resolution(resolution)
    check_count("--shard-size", shard_size, SHARD)
    check_into(into)
    samples, classes = list_source(source, limits)
    process = Process.here()
    threads = max(1, (os.cpu_count() or 1) // process.local_world)

    def make(shard: int, put: Put) -> None:
        with ThreadPoolExecutor(threads) as pool:
            # A bounded number at a time: a shard of images is gigabytes.
            stop = min((shard + 1) * shard_size, len(samples))
            for start in range(shard * shard_size, stop, 16 * threads):
                some = samples[start : min(start + 16 * threads, stop)]
                for row in pool.map(lambda sample: crop_row(sample, resolution, limits), some):
                    put(row)

    shards = cut([s.key for s in samples], [int(s.label) for s in samples], shard_size)
    facts = {"resolution": resolution, "crop": "adm-center", "classes": classes}
    with pillow_allows(limits.pixels):
        return Job(root / into, facts, shards, (3, resolution, resolution), "uint8", make).run(process)


def crop_row(sample: Sample, resolution: int, limits: Limits) -> Row:
    """One sample read, decoded and cropped, or refused with the reason."""
    try:
        if sample.fault:
            raise Refused(sample.fault)
        image = decode(read_bytes(sample.place, limits.bytes), limits.pixels)
        scale = resolution / min(image.size)
        check_pixels(round(image.width * scale), round(image.height * scale), limits.pixels, "would be cropped from")
        return Row(sample.key, int(sample.label), center_crop(image, resolution).transpose(2, 0, 1))
    except Refused as reason:
        return Row(sample.key, int(sample.label), None, str(reason))
    except Exception as error:  # a file gone, no memory for this one: no sample stops the others
        return Row(sample.key, int(sample.label), None, f"{type(error).__name__}: {error}")


def center_crop(image: Image.Image, resolution: int) -> np.ndarray[Any, np.dtype[np.uint8]]:
    """The centre square, uint8 (R, R, 3), as ADM takes it (Dhariwal & Nichol 2021), and DiT, SiT, REPA after it.

    Halved with a box filter while the short side is at least 2R, then bicubic to a short side of R, then cropped.
    """
    while min(image.size) >= 2 * resolution:
        image = image.resize((image.width // 2, image.height // 2), Image.Resampling.BOX)
    scale = resolution / min(image.size)
    image = image.resize((round(image.width * scale), round(image.height * scale)), Image.Resampling.BICUBIC)
    array = np.asarray(image)
    top, left = (array.shape[0] - resolution) // 2, (array.shape[1] - resolution) // 2
    return array[top : top + resolution, left : left + resolution]
