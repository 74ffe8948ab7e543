"""Evaluation: python -m benchmarks.eval [--images 64] [--features 4096] [--dim 2048]

FID's Inception on images of 256 px, with random weights, which are as fast as the published ones; the moments of its
features, summed in float64 as diffx does and in float32; the Fréchet distance between two such moments. Beside the
speeds stands what float32 sums would do to the distance.
"""

import argparse
import os
from dataclasses import asdict
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "passive")  # before torch is imported

import torch
from torch import Tensor

from benchmarks import measure
from benchmarks.measure import Ratio, in_turn, seconds_of, speed_ratio
from diffx.features.inception import POOL_DIM, Inception
from diffx.metrics.frechet import Moments, frechet_distance

BATCH = 64


def main() -> None:
    device = measure.pick_device()
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=1024 if device.type == "cuda" else 8, help="through the network")
    parser.add_argument("--features", type=int, default=4096, help="whose moments are summed")
    parser.add_argument("--dim", type=int, default=POOL_DIM, help="of the features")
    measure.add_common(parser, "benchmark_eval.json", rounds=3)
    asked = parser.parse_args()
    torch.set_num_threads(asked.threads)
    result: dict[str, Any] = {"machine": measure.machine(device)}
    result |= inception(asked, device) | moments(asked, device) | distance(asked)
    print_measured(result)
    measure.write(asked.out, result)


def inception(asked: argparse.Namespace, device: torch.device) -> dict[str, Any]:
    """Images a second through the network."""
    network = Inception().to(device)
    images = torch.randint(256, (asked.images, 3, 256, 256), dtype=torch.uint8, device=device)

    def forward() -> None:
        for part in images.split(BATCH):
            network(part)

    seconds_of(forward, 1, device)
    times = sorted(in_turn({"forward": lambda: seconds_of(forward, 1, device)}, asked.rounds)["forward"])
    return {"inception_images_per_second": asked.images / times[len(times) // 2]}


def moments(asked: argparse.Namespace, device: torch.device) -> dict[str, Any]:
    """Features a second into the sums, and float32's speed over float64's."""
    features = made_up_features(asked.features, asked.dim, 0).to(device)
    double, single = new_moments(asked.dim).to(device), in_float32(new_moments(asked.dim).to(device))

    def add_all(sums: Moments) -> None:
        for part in features.split(BATCH):
            sums.update(part)

    def update(sums: Moments) -> float:
        return seconds_of(lambda: add_all(sums), 1, device)

    seconds = in_turn({"float64": lambda: update(double), "float32": lambda: update(single)}, asked.rounds)
    rates = {name: asked.features / sorted(times)[len(times) // 2] for name, times in seconds.items()}
    ratio = speed_ratio(seconds["float64"], seconds["float32"])
    return {"features_per_second": rates, "float32_over_float64": asdict(ratio)}


def distance(asked: argparse.Namespace) -> dict[str, Any]:
    """Seconds of a distance, which is computed on the CPU, and how far float32 sums move it."""
    cpu = torch.device("cpu")
    sets = [made_up_features(asked.features, asked.dim, seed) for seed in (0, 1)]
    double = [summed(new_moments(asked.dim), rows).compute() for rows in sets]
    single = [as_float64(summed(in_float32(new_moments(asked.dim)), rows)).compute() for rows in sets]
    times = sorted(seconds_of(lambda: frechet_distance(*double), 1, cpu) for _ in range(asked.rounds))
    exact, rounded = frechet_distance(*double), frechet_distance(*single)
    return {
        "distance_seconds": times[len(times) // 2],
        "distance": exact,
        "distance_of_float32_sums": rounded,
        "features": asked.features,
        "dim": asked.dim,
    }


def made_up_features(count: int, dim: int, seed: int) -> Tensor:
    """Rows (count, dim), positive as Inception's, with a spectrum that falls off; seed 1 is shifted a little."""
    rng = torch.Generator().manual_seed(seed)
    scale = torch.linspace(1, 0.05, dim)
    return (0.4 + 0.02 * seed + 0.3 * scale * torch.randn(count, dim, generator=rng)).clamp(min=0)


def new_moments(dim: int) -> Moments:
    """Moments of what they are given: the features stand in for images."""
    return Moments(lambda features: features, dim)


def summed(sums: Moments, features: Tensor) -> Moments:
    for part in features.split(BATCH):
        sums.update(part)
    return sums


def in_float32(sums: Moments) -> Moments:
    sums.sum, sums.outer = sums.sum.float(), sums.outer.float()
    return sums


def as_float64(sums: Moments) -> Moments:
    sums.sum, sums.outer = sums.sum.double(), sums.outer.double()
    return sums


def print_measured(result: dict[str, Any]) -> None:
    """Print what was measured."""
    facts, rates = result["machine"], result["features_per_second"]
    faster = Ratio(**result["float32_over_float64"])
    exact, rounded = result["distance"], result["distance_of_float32_sums"]
    print(f"{facts['device']}, torch {facts['torch']}, {facts['threads']} threads, {facts['clock']}")
    print(f"Inception           {result['inception_images_per_second']:>10.1f} images/s")
    print(f"moments, float64    {rates['float64']:>10.0f} features/s of {result['dim']} dimensions")
    print(f"moments, float32    {rates['float32']:>10.0f} features/s, {faster} times as fast")
    print(f"Fréchet distance    {result['distance_seconds']:>10.2f} s on the CPU")
    print(f"float32 sums of {result['features']} features move the distance from {exact:.6f} to {rounded:.6f}")


if __name__ == "__main__":
    main()
