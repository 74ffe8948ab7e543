"""Loading: python -m benchmarks.data [--samples 2048] [--folder DIR]

diffx's shards against one .npy and one .png for each sample, in turn, on the same samples of SD-VAE's shape at
256 px: moments (8, 32, 32) and an RGB image, of smooth random content. Everything is read through the page cache, in
random order, by one process with one thread: what one core can do, and not what a disk can.
"""

import argparse
import tempfile
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from benchmarks import measure
from benchmarks.layouts import LAYOUTS, write_layouts
from benchmarks.measure import Ratio, Seconds, in_turn, seconds_of, speed_ratio
from diffx.data.shards import open_shards

BATCH = 64
NEEDED = 8 * 560  # samples a second: eight H100s at 560 images each
CPU = torch.device("cpu")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--samples", type=int, default=2048)
    parser.add_argument("--folder", type=Path, help="where the samples are written and removed again")
    measure.add_common(parser, "benchmark_data.json", rounds=7)
    asked = parser.parse_args()
    torch.set_num_threads(asked.threads)
    with tempfile.TemporaryDirectory(dir=asked.folder) as folder:
        write_layouts(Path(folder), asked.samples)
        seconds = time_readers(Path(folder), asked.samples, asked.rounds)
    result = summary(seconds, asked.samples) | {"machine": measure.machine(CPU), "samples": asked.samples}
    print_measured(result)
    measure.write(asked.out, result)


def time_readers(root: Path, samples: int, rounds: int) -> Seconds:
    """Seconds for all samples in random batches, by each way of reading; the first pass only warms the page cache."""
    readers: dict[str, Callable[[Tensor], object]] = {
        f"{layout}, {what}": read(root, what == "latents and images")
        for layout, read in LAYOUTS.items()
        for what in ("latents", "latents and images")
    }
    memory = open_shards(root / "diffx" / "images", "").read(np.arange(min(BATCH, samples)))
    readers["copy of images in memory"] = lambda part: memory.copy()

    def once(read: Callable[[Tensor], object]) -> float:
        parts = torch.randperm(samples).split(BATCH)
        return seconds_of(lambda: [read(part) for part in parts], 1, CPU)

    for read in readers.values():
        once(read)
    return in_turn({name: lambda read=read: once(read) for name, read in readers.items()}, rounds)  # type: ignore[misc]


def summary(seconds: Seconds, samples: int) -> dict[str, Any]:
    """Rates, and shards over files."""
    rates = {name: samples / sorted(times)[len(times) // 2] for name, times in seconds.items()}
    ratios = {
        what: asdict(speed_ratio(seconds[f"files, {what}"], seconds[f"shards, {what}"]))
        for what in ("latents", "latents and images")
    }
    return {"samples_per_second": rates, "shards_over_files": ratios}


def print_measured(result: dict[str, Any]) -> None:
    """Print the table."""
    facts = result["machine"]
    print(f"{facts['device']}, one core, {facts['clock']}, {result['samples']} samples, batches of {BATCH}, page cache")
    for name, rate in result["samples_per_second"].items():
        print(f"  {name:28} {rate:10,.0f} samples/s   cores for {NEEDED}/s: {NEEDED / rate:5.2f}")
    for what, ratio in result["shards_over_files"].items():
        print(f"  {what}: shards are {Ratio(**ratio)} times as fast as files")


if __name__ == "__main__":
    main()
