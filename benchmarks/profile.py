"""What a training step spends its time on, by operator: python -m benchmarks.profile [settings] [--backbone s]

Shares of the processor's time on a CPU and of the kernels' time on a GPU, from torch's profiler over a few steps on
made-up latents of 256 px. An encoder's features come for nothing.
"""

import argparse
import os
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "passive")  # before torch is imported

import torch
from torch.autograd import DeviceType
from torch.profiler import ProfilerActivity, profile

from benchmarks import measure
from benchmarks.feed import Source
from benchmarks.layouts import write_layouts
from benchmarks.measure import seconds_of
from benchmarks.training import Pool, Recipe, Trainee
from diffx.config.compose import compose_config

SAMPLES = 64


def main() -> None:
    device = measure.pick_device()
    on_gpu = device.type == "cuda"
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("settings", nargs="*", help="as for diffx, such as plugins=[tread]")
    parser.add_argument("--backbone", default="xl" if on_gpu else "tiny")
    parser.add_argument("--compile", default="blocks" if on_gpu else "none")
    parser.add_argument("--precision", default="bf16-mixed" if on_gpu else "32-true")
    parser.add_argument("--batch-size", type=int, default=128 if on_gpu else 8)
    parser.add_argument("--steps", type=int, default=2)
    parser.add_argument("--threads", type=int, default=1, help="of a CPU")
    parser.add_argument("-o", "--out", type=Path, default=Path("benchmark_profile.json"))
    asked = parser.parse_args()
    torch.set_num_threads(asked.threads)
    shares = profiled(asked, device)
    print_measured(shares)
    measure.write(asked.out, {"machine": measure.machine(device), "backbone": asked.backbone, "shares": shares})


def profiled(asked: argparse.Namespace, device: torch.device) -> dict[str, float]:
    """Shares of the time by operator, the largest first."""
    fixed = ["data=imagenet256", f"backbone={asked.backbone}", f"batch_size={asked.batch_size}"]
    config = compose_config([*fixed, *asked.settings])
    recipe = Recipe(compile=asked.compile, precision=asked.precision)
    activities = [ProfilerActivity.CPU] + ([ProfilerActivity.CUDA] if device.type == "cuda" else [])
    with tempfile.TemporaryDirectory() as folder:
        write_layouts(Path(folder), SAMPLES)
        trainee = Trainee(config, recipe, Source(Path(folder), SAMPLES, 0, {}, {}), Pool(device))
        trainee.warm_up()
        with profile(activities=activities) as profiler:
            seconds_of(trainee.step, asked.steps, device)
    times = own_times(profiler.key_averages(), device)
    whole = sum(times.values())
    return {name: time / whole for name, time in sorted(times.items(), key=lambda item: -item[1]) if time}


def own_times(events: Iterable[Any], device: torch.device) -> dict[str, float]:
    """By name. On a GPU of kernels alone: the operator that started a kernel has its time too, so that both together
    would be twice the truth."""
    if device.type == "cpu":
        return {event.key: event.self_cpu_time_total for event in events}
    kernels = [event for event in events if event.device_type == DeviceType.CUDA]
    return {event.key: event.self_device_time_total for event in kernels}


def print_measured(shares: dict[str, float], shown: int = 16) -> None:
    """Print the largest shares."""
    for name, share in list(shares.items())[:shown]:
        print(f"{share:>7.1%}  {name}")


if __name__ == "__main__":
    main()
