"""Timing variants in turn, so that what else the machine does falls on all of them; ratios; what is written."""

import argparse
import gc
import json
import os
import platform
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from diffx.store.whole_file import write_text

Seconds = dict[str, list[float]]  # by variant, one for each round

# Dense bf16 FLOP/s that NVIDIA states, by how the driver's name of the device begins.
PEAKS = {"NVIDIA H100 80GB HBM3": 989e12, "NVIDIA H200": 989e12, "NVIDIA A100": 312e12}
SLOWER = ("NVIDIA H200 NVL",)  # other chips whose names begin alike


def device_name(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else cpu_name()


def cpu_name() -> str:
    """The processor's name as the system tells it."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def peak_flops(name: str) -> float | None:
    """Peak dense bf16 FLOP/s of a GPU by its name, None where it is not known here."""
    if name.startswith(SLOWER):
        return None
    return next((peak for begin, peak in PEAKS.items() if name.startswith(begin)), None)


def pick_device() -> torch.device:
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def machine(device: torch.device) -> dict[str, Any]:
    """What a figure depends on beside the code."""
    return {
        "device": device_name(device),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "clock": "processor time" if device.type == "cpu" else "wall-clock time",
    }


def now(device: torch.device) -> float:
    """Seconds: of the process on a CPU, where others' turns are not charged; of the wall after all work on a GPU."""
    if device.type == "cpu":
        return time.process_time()
    torch.cuda.synchronize(device)
    return time.perf_counter()


def seconds_of(call: Callable[[], object], times: int, device: torch.device) -> float:
    """Seconds for one of `times` calls."""
    start = now(device)
    for _ in range(times):
        call()
    return (now(device) - start) / times


def release(device: torch.device) -> None:
    """Give back the memory of variants that are done with."""
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()


def in_turn(variants: Mapping[str, Callable[[], float]], rounds: int) -> Seconds:
    """Each variant's own measure of its seconds, round after round, every other round in reverse order."""
    seconds: Seconds = {label: [] for label in variants}
    for number in range(rounds):
        for label in list(variants)[:: -1 if number % 2 else 1]:
            seconds[label].append(variants[label]())
    return seconds


@dataclass(frozen=True)
class Ratio:
    """How many times as fast as the base: the median over rounds of ratios within a round, the least and the most."""

    median: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.median:.2f} [{self.low:.2f} - {self.high:.2f}]"


def speed_ratio(base: list[float], own: list[float]) -> Ratio:
    ratios = [slow / fast for slow, fast in zip(base, own, strict=True)]
    return Ratio(statistics.median(ratios), min(ratios), max(ratios))


def add_common(parser: argparse.ArgumentParser, out: str, rounds: int = 5) -> None:
    """The options that all benchmarks have."""
    parser.add_argument("--rounds", type=int, default=rounds, help="of all variants in turn")
    parser.add_argument("--threads", type=int, default=1, help="of a CPU")
    parser.add_argument("-o", "--out", type=Path, default=Path(out), help="where the JSON is written")


def write(out: Path, result: Mapping[str, Any]) -> None:
    """Write the result as JSON, whole or not at all."""
    write_text(out, json.dumps(result, indent=1) + "\n")
    print(f"written to {out}")
