"""The cost of a training step by plugin set, as ratios measured in one run: python -m benchmarks.step

Variants are timed in turn, round after round, so that what else the machine does falls on all of them. Printed are
medians over rounds of samples/s and of the speed relative to the plain step, beside what the FLOPs predict. "peers" is
the plain step as common training scripts write it: an EMA loop over tensors and a loss read back every step.
"""

import argparse
import json
import os
import platform
import statistics
import time
from collections.abc import Callable
from pathlib import Path

os.environ.setdefault("OMP_WAIT_POLICY", "passive")  # before torch is imported

import torch
from omegaconf import DictConfig
from torch import nn

from diffx import step
from diffx.build import Model, build_model, make
from diffx.compose import compose_config
from diffx.encoder import encoder_spec
from diffx.meter import count_flops
from diffx.module import update_ema

SETS = ("", "repa", "mdt", "tread", "repa,tread")


def peers_ema(ema: nn.Module, live: nn.Module, decay: float) -> None:
    """EMA as DiT, SiT and REPA write it: one small operation a tensor."""
    with torch.no_grad():
        for (_, average), (_, parameter) in zip(ema.named_parameters(), live.named_parameters(), strict=True):
            average.mul_(decay).add_(parameter.data, alpha=1 - decay)


def stepper(model: Model, config: DictConfig, device: torch.device, peers: bool) -> Callable[[], None]:
    """A function that takes one whole training step on made-up data."""
    backbone = model.backbone.to(device)
    plugins = {name: plugin.to(device) for name, plugin in model.plugins.items()}
    ema = build_model(config).backbone.to(device).requires_grad_(False)
    modules = [backbone, *plugins.values()]
    optimizer = make(config.optimizer, params=[p for m in modules for p in m.parameters() if p.requires_grad])
    size = backbone.input_size
    batch = {
        "x": torch.randn(config.batch_size, backbone.in_channels, size, size, device=device),
        "y": torch.randint(backbone.num_classes, (config.batch_size,), device=device),
    }
    for need in model.plan.needs:
        dim = encoder_spec(need.removeprefix("features/")).dim
        batch[need] = torch.randn(config.batch_size, backbone.num_tokens, dim, device=device)
    count = 0

    def one() -> None:
        nonlocal count
        count += 1
        streams = step.Streams(0, count, device=device)
        draws = step.draw(model.plan, plugins, model.objective, batch, {}, streams, 0.1, backbone.null_label)
        total = step.losses(backbone, model.plan, plugins, model.objective, draws)["total"]
        optimizer.zero_grad(set_to_none=not peers)
        total.backward()
        optimizer.step()
        if peers:
            total.item()
            peers_ema(ema, backbone, 0.999)
        else:
            update_ema(ema, backbone, 0.999)

    return one


def timed(one: Callable[[], None], steps: int, device: torch.device) -> float:
    """Seconds a step: processor time on a CPU, wall-clock time on a GPU."""
    clock = time.process_time if device.type == "cpu" else time.perf_counter
    if device.type == "cuda":
        torch.cuda.synchronize()
    start = clock()
    for _ in range(steps):
        one()
    if device.type == "cuda":
        torch.cuda.synchronize()
    return (clock() - start) / steps


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("overrides", nargs="*", help="settings, such as backbone=s batch_size=8")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("-o", "--out", type=Path, default=Path("benchmark_step.json"))
    chosen = parser.parse_args()
    torch.set_num_threads(chosen.threads)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    variants, predicted = {}, {}
    for names in [*SETS, "peers"]:
        config = compose_config([f"plugins=[{names if names != 'peers' else ''}]", *chosen.overrides])
        model = build_model(config)
        flops = count_flops(model.backbone, model.plugins, model.objective, model.plan, {})
        label = names.replace(",", "+") or "plain"
        variants[label], predicted[label] = stepper(model, config, device, names == "peers"), flops.train
    for one in variants.values():
        timed(one, 2, device)
    seconds: dict[str, list[float]] = {label: [] for label in variants}
    for _ in range(chosen.rounds):
        for label, one in variants.items():
            seconds[label].append(timed(one, chosen.steps, device))
    report(seconds, predicted, config.batch_size, device, chosen.out)


def report(
    seconds: dict[str, list[float]], predicted: dict[str, int], batch_size: int, device: torch.device, out: Path
) -> None:
    """Print the table and write it as JSON."""
    name = torch.cuda.get_device_name() if device.type == "cuda" else platform.processor() or platform.machine()
    print(
        f"{name}, torch {torch.__version__}, {torch.get_num_threads()} threads, batch {batch_size}; encoders not timed"
    )
    print(f"{'step':<12}{'samples/s':>10}{'speed / plain':>22}{'FLOPs predict':>15}{'realised':>10}")
    rows = {}
    for label, times in seconds.items():
        ratios = sorted(plain / own for plain, own in zip(seconds["plain"], times, strict=True))
        ratio, by_flops = statistics.median(ratios), predicted["plain"] / predicted[label]
        rate = batch_size / statistics.median(times)
        spread = f"{ratio:.2f} [{ratios[0]:.2f} - {ratios[-1]:.2f}]"
        print(f"{label:<12}{rate:>10.1f}{spread:>22}{by_flops:>15.2f}{ratio / by_flops:>10.0%}")
        rows[label] = {"samples_per_second": rate, "ratios": ratios, "predicted": by_flops}
    out.write_text(json.dumps({"device": name, "torch": torch.__version__, "rows": rows}, indent=1) + "\n")
    print(f"written to {out}")


if __name__ == "__main__":
    main()
