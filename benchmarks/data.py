"""Loading speed per core: diffx's shards against one .npy and one .png per sample, in one run on the same samples.

    python benchmarks/data.py [--samples 4096] [--folder DIR]

Samples are SD-VAE's shape at 256 px: moments (8, 32, 32) and an RGB image, of smooth random content. Everything is
read through the page cache, in random order, by one process with one thread, so the figures are what one core can do
and not what a disk can. Ratios are what to compare; absolute figures belong to this machine.
"""

import argparse
import json
import os
import platform
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from diffx.data.latents import Latents
from diffx.data.shards import open_shards
from diffx.prepare.repa import import_repa

BATCH = 64
NEEDED = 8 * 560  # samples per second: eight H100s at 560 images each


def write_repa_layout(root: Path, samples: int) -> None:
    """images/**.png and vae-sd/**.npy (float32, uncompressed PNG as the converter writes it) with labels."""
    rng, labels = np.random.default_rng(0), []
    for i in range(samples):
        folder = f"{i // 1000:05d}"
        for part in ("images", "vae-sd"):
            (root / part / folder).mkdir(parents=True, exist_ok=True)
        small = Image.fromarray(rng.integers(0, 256, (24, 24, 3), dtype=np.uint8))
        small.resize((256, 256), Image.Resampling.BICUBIC).save(
            root / "images" / folder / f"img{i:08d}.png", compress_level=0
        )
        name = f"{folder}/img-mean-std-{i:08d}.npy"
        np.save(root / "vae-sd" / name, rng.standard_normal((8, 32, 32), dtype=np.float32))
        labels.append([name, i % 1000])
    (root / "vae-sd" / "dataset.json").write_text(json.dumps({"labels": labels}))


def one_file_per_sample(root: Path, images: bool) -> Callable[[torch.Tensor], object]:
    """A batch as REPA's loader makes it: two files opened and decoded for each sample."""
    pictures, moments = sorted((root / "images").rglob("*.png")), sorted((root / "vae-sd").rglob("*.npy"))

    def batch(indices: torch.Tensor) -> object:
        rows = [torch.from_numpy(np.load(moments[i])) for i in indices]
        seen = (
            [torch.from_numpy(np.asarray(Image.open(pictures[i])).transpose(2, 0, 1).copy()) for i in indices]
            if images
            else []
        )
        return torch.stack(rows), torch.stack(seen) if images else None

    return batch


def samples_per_second(batch: Callable[[torch.Tensor], object], samples: int, seconds: float = 4.0) -> float:
    """The median over passes of random batches, after one pass to warm the cache."""
    rates = []
    end = None
    while end is None or time.perf_counter() < end or len(rates) < 3:
        parts = torch.randperm(samples).split(BATCH)
        start = time.perf_counter()
        for part in parts:
            batch(part)
        rates.append(samples / (time.perf_counter() - start))
        end = end or time.perf_counter() + seconds
    return float(np.median(rates[1:]))


def measure(root: Path, samples: int) -> dict[str, float]:
    """Samples per second on one core of each way of reading."""
    write_repa_layout(root / "repa", samples)
    import_repa(root / "repa", root / "diffx")
    latents, both = Latents(str(root / "diffx")), Latents(str(root / "diffx"))
    both.provide(["image"], side=16)
    memory = open_shards(root / "diffx" / "images", "").read(np.arange(BATCH))
    return {
        "shards, latents": samples_per_second(latents.batch, samples),
        "shards, latents and images": samples_per_second(both.batch, samples),
        "files, latents": samples_per_second(one_file_per_sample(root / "repa", images=False), samples),
        "files, latents and images": samples_per_second(one_file_per_sample(root / "repa", images=True), samples),
        "copy of images in memory": samples_per_second(lambda part: memory.copy(), samples),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--samples", type=int, default=4096)
    parser.add_argument("--folder", type=Path, help="where the samples are written and removed again")
    asked = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory(dir=asked.folder) as folder:
        rates = measure(Path(folder), asked.samples)
    print(
        f"{platform.machine()}, one of {os.cpu_count()} cores, {asked.samples} samples, batches of {BATCH}, page cache"
    )
    for name, rate in rates.items():
        print(f"  {name:28} {rate:10,.0f} samples/s   cores for {NEEDED}/s: {NEEDED / rate:5.2f}")
    for what in ("latents", "latents and images"):
        print(f"  {what}: shards are {rates[f'shards, {what}'] / rates[f'files, {what}']:.1f} times as fast as files")


if __name__ == "__main__":
    main()
