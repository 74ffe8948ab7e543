"""The training step: python -m benchmarks.step [settings] [--backbones s b] [--plugins plain repa tread] ...

For every backbone, compile mode and precision all plugin sets are timed in turn, round after round, beside what the
plan's FLOPs predict. Then, in steps of their own, where the step's time goes. Then the ladder: the step as the field's
public scripts take it, and what each gain adds. Last what routing costs. All on made-up latents of 256 px in a
temporary folder; ratios are what to compare, absolute figures belong to the machine.
"""

import argparse
import os
import statistics
import tempfile
from collections.abc import Callable
from dataclasses import asdict, replace
from itertools import product
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "passive")  # before torch is imported

import torch

from benchmarks import measure, tokens
from benchmarks.encoder import random_encoder
from benchmarks.feed import Source
from benchmarks.ladder import climb
from benchmarks.layouts import write_layouts
from benchmarks.measure import in_turn, peak_flops, seconds_of, speed_ratio
from benchmarks.report import print_ladder, print_split, print_steps, print_tokens
from benchmarks.training import Pool, Recipe, Trainee, split_of_step
from diffx.assemble.flops import flops_of
from diffx.assemble.model import build_model
from diffx.assemble.services import encoder_names
from diffx.config.compose import compose_config
from diffx.config.settings import Settings

PLAIN = "plain"
BATCH = {
    "cpu": {"tiny": 16, "s": 8, "b": 4, "l": 2, "xl": 2},
    "cuda": {"tiny": 256, "s": 256, "b": 256, "l": 64, "xl": 64},  # XL at 256 would keep 101 GB of activations
}


def arguments(device: torch.device) -> argparse.ArgumentParser:
    """Defaults are minutes of one CPU core, or of a GPU."""
    on_gpu = device.type == "cuda"
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("settings", nargs="*", help="as for diffx, such as plugins.tread.selection_ratio=0.75")
    parser.add_argument("--backbones", nargs="+", default=["s", "b", "xl"] if on_gpu else ["tiny"])
    parser.add_argument("--plugins", nargs="+", default=[PLAIN, "repa", "mdt", "tread", "repa,tread"])
    parser.add_argument("--compile", nargs="+", default=["blocks" if on_gpu else "none"])
    parser.add_argument("--precision", nargs="+", default=["bf16-mixed" if on_gpu else "32-true"])
    parser.add_argument("--batch-size", type=int, help=f"of a step; else by backbone: {BATCH[device.type]}")
    parser.add_argument("--steps", type=int, default=10 if on_gpu else 2, help="of a variant in a round")
    parser.add_argument("--samples", type=int, default=2048 if on_gpu else 128, help="made up on disk")
    parser.add_argument("--workers", type=int, default=4 if on_gpu else 0, help="processes that read")
    parser.add_argument(
        "--encoder",
        choices=["live", "none"],
        default="live" if on_gpu else "none",
        help="live: REPA's encoder runs in the step, with random weights; none: its features come for nothing",
    )
    parser.add_argument("--fused", action="store_true", help="with trainer.fused=true; the ladder is without")
    parser.add_argument("--no-ladder", action="store_true", help="leave out the ladder")
    parser.add_argument(
        "--slow", action="store_true", help="with the rungs that compile for minutes: the whole step, CUDA graphs"
    )
    parser.add_argument(
        "--no-trainer", action="store_true", help="leave out its last rung, which has weights of its own"
    )
    parser.add_argument("--no-tokens", action="store_true", help="leave out what routing costs")
    measure.add_common(parser, "benchmark_step.json")
    return parser


def compose(asked: argparse.Namespace, backbone: str, plugins: str, device: torch.device) -> Settings:
    names = "" if plugins == PLAIN else plugins
    size = asked.batch_size or BATCH[device.type].get(backbone, 8)
    fixed = [f"plugins=[{names}]", f"backbone={backbone}", "data=imagenet256", f"batch_size={size}"]
    return compose_config([*fixed, *asked.settings])


def main() -> None:
    device = measure.pick_device()
    asked = arguments(device).parse_args()
    torch.set_num_threads(asked.threads)
    torch._dynamo.config.recompile_limit = 256  # all variants compile the same functions
    result: dict[str, Any] = {"machine": measure.machine(device), "encoder": asked.encoder}
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        write_layouts(root, asked.samples)
        result["steps"] = steps(asked, root, device)
        print_steps(result)
        print_split(result)
        if not asked.no_ladder:
            result["ladder"] = ladders(asked, root, device)
            print_ladder(result)
    if not asked.no_tokens:
        result["tokens"] = routing(asked, device)
        print_tokens(result)
    measure.write(asked.out, result)


def steps(asked: argparse.Namespace, root: Path, device: torch.device) -> list[dict[str, Any]]:
    """A row for each backbone, compile mode, precision and plugin set."""
    rows = []
    for backbone, mode, precision in product(asked.backbones, asked.compile, asked.precision):
        recipe = Recipe(compile=mode, precision=precision, fused=asked.fused)
        configs = {names: compose(asked, backbone, names, device) for names in dict.fromkeys([PLAIN, *asked.plugins])}
        rows += [{"backbone": backbone} | row for row in plugin_sets(asked, configs, recipe, root, device)]
    return rows


def plugin_sets(
    asked: argparse.Namespace, configs: dict[str, Settings], recipe: Recipe, root: Path, device: torch.device
) -> list[dict[str, Any]]:
    """All plugin sets of one backbone in turn."""
    measure.release(device)
    trainees, first, memory, pool = {}, {}, {}, Pool(device)
    for names, config in configs.items():
        source = source_of(asked, config, root, device, compiled=recipe.compile != "none")
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats()
        trainees[names] = Trainee(config, recipe, source, pool)
        first[names] = seconds_of(trainees[names].step, 1, device)  # warm-up and compilation
        trainees[names].warm_up()
        memory[names] = torch.cuda.max_memory_allocated() if device.type == "cuda" else None
    calls: dict[str, Callable[[], float]] = {
        names: lambda one=one: seconds_of(one.step, asked.steps, device)  # type: ignore[misc]
        for names, one in trainees.items()
    }
    seconds = in_turn(calls, asked.rounds)
    return [
        {"plugins": names, "peak_memory_bytes": memory[names], "first_step_seconds": first[names]}
        | speeds(one, seconds[names], trainees[PLAIN], seconds[PLAIN])
        | {"split_seconds": split_of_step(one, asked.steps)}
        for names, one in trainees.items()
    ]


def speeds(one: Trainee, times: list[float], plain: Trainee, plain_times: list[float]) -> dict[str, Any]:
    """What a plugin set's seconds say, beside those of the plain step and what FLOPs predict."""
    rate = one.config.batch_size / statistics.median(times)
    flops, peak = one.flops.train * rate, peak_flops(measure.device_name(one.device))
    ratio, predicted = speed_ratio(plain_times, times), plain.flops.train / one.flops.train
    return {
        "compile": one.recipe.compile,
        "precision": one.recipe.precision,
        "batch_size": one.config.batch_size,
        "samples_per_second": rate,
        "tflops_per_second": flops / 1e12,
        "mfu": flops / peak if peak and one.recipe.precision != "32-true" else None,
        "speed_over_plain": asdict(ratio),
        "flops_predict": predicted,
        "realised": ratio.median / predicted,
    }


def source_of(asked: argparse.Namespace, config: Settings, root: Path, device: torch.device, compiled: bool) -> Source:
    """The samples, and the encoders that this configuration's plugins need, where they are to run."""
    model = build_model(config, "meta")
    names = encoder_names(model.plan.needs) if asked.encoder == "live" else []
    encoders = {f"features/{name}": random_encoder(name, model.backbone.side, device) for name in names}
    image = torch.zeros(1, 3, config.data.image_size, config.data.image_size, dtype=torch.uint8)
    flops = {need: flops_of(encode, image) for need, encode in encoders.items()}
    for encode in encoders.values() if compiled else ():
        encode.compile()  # type: ignore[attr-defined]
    return Source(root, asked.samples, asked.workers, encoders, flops)


def ladders(asked: argparse.Namespace, root: Path, device: torch.device) -> list[dict[str, Any]]:
    """For each backbone and precision the rungs from the peers' step up: REPA's where its encoder runs, else plain."""
    plugins, rows = "repa" if asked.encoder == "live" else PLAIN, []
    for backbone, precision in product(asked.backbones, asked.precision):
        config = compose(asked, backbone, plugins, device)
        source = source_of(asked, config, root, device, compiled=False)
        compiled = source
        if source.encoders:
            compiled = replace(source, encoders=source_of(asked, config, root, device, compiled=True).encoders)
        rounds, trainer = asked.rounds, not asked.no_trainer
        climbed = climb(config, source, compiled, device, rounds, asked.steps, precision, trainer, asked.slow)
        facts = {"backbone": backbone, "precision": precision, "plugins": plugins, "batch_size": config.batch_size}
        rows += [facts | row for row in climbed]
    return rows


def routing(asked: argparse.Namespace, device: torch.device) -> list[dict[str, Any]]:
    """What gathers, scatters and token counts cost at each backbone."""
    rows = []
    for name, precision in product(asked.backbones, asked.precision):
        config = compose(asked, name, PLAIN, device)
        backbone = build_model(config).backbone.to(device)
        half = precision == "bf16-mixed"
        found = tokens.measure(backbone, config.batch_size, half, device, asked.rounds, asked.steps)
        rows.append({"backbone": name, "precision": precision, "batch_size": config.batch_size} | found)
    return rows


if __name__ == "__main__":
    main()
