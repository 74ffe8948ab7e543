"""From the step as the field's public scripts take it to diffx's, one gain at a time, each on top of those before."""

import logging
import statistics
import warnings
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from typing import Any

import lightning as L
import torch

from benchmarks.feed import Source
from benchmarks.measure import Seconds, in_turn, now, release, seconds_of, speed_ratio
from benchmarks.training import LOG_EVERY, OPTIMIZERS, Pool, Recipe, Trainee
from diffx.assemble.model import build_model
from diffx.config.settings import Settings
from diffx.train.module import DiffusionModule


@dataclass(frozen=True)
class Rung:
    """One gain: its name, what it changes in the recipe, and where it means something: only on a GPU, only where an
    encoder runs. slow: it compiles for minutes and keeps a pool of memory of its own, and comes where asked for."""

    name: str
    change: dict[str, Any]
    gpu: bool = False
    encoder: bool = False
    slow: bool = False


PEERS = Recipe("peers", "files", pinned=False, optimizer="loop", ema="loop", log_every=1)
GAINS = (
    Rung("contiguous stream, fewer operations", {"blocks": "diffx"}),
    Rung("shards instead of files", {"layout": "shards"}),
    Rung("fused AdamW", {"optimizer": "fused"}),
    Rung("EMA in one foreach call", {"ema": "foreach"}),
    Rung(f"losses read every {LOG_EVERY} steps", {"log_every": LOG_EVERY}),
    Rung("pinned, asynchronous copies", {"pinned": True}, gpu=True),
    Rung("each block compiled", {"compile": "blocks"}, gpu=True),
    Rung("encoder compiled", {"encoder": "compiled"}, gpu=True, encoder=True),
    Rung("encoder on its own stream", {"encoder": "ahead"}, gpu=True, encoder=True),
    Rung("bfloat16 residual stream", {"stream": "bfloat16"}, gpu=True),
    Rung("whole step compiled", {"compile": "step"}, gpu=True, slow=True),
    Rung("CUDA graphs", {"compile": "graphs"}, gpu=True, slow=True),
)
TRAINED = "diffx's trainer"


def rungs(device: torch.device, precision: str, encoder: bool, slow: bool = True) -> dict[str, Recipe]:
    """The recipes that mean something on this device, with or without an encoder, by name, the peers' first. slow: with
    those that compile for minutes."""
    on_gpu = device.type == "cuda"
    # AdamW's default is a loop on a CPU and one call for all tensors on a GPU.
    recipe = replace(PEERS, precision=precision, optimizer="foreach" if on_gpu else "loop")
    named = {"peers": recipe}
    for gain in GAINS:
        if (gain.gpu and not on_gpu) or (gain.encoder and not encoder) or (gain.slow and not slow):
            continue
        if gain.change.get("stream") == "bfloat16" and precision == "32-true":
            continue
        recipe = replace(recipe, **gain.change)
        named[gain.name] = recipe
    return named


def climb(
    config: Settings,
    source: Source,
    compiled: Source,
    device: torch.device,
    rounds: int,
    steps: int,
    precision: str,
    trainer: bool,
    slow: bool,
) -> list[dict[str, Any]]:
    """Time all rungs in turn. `compiled`: the same source with compiled encoders, from the rung that compiles them on.
    `trainer`: with the last rung, Lightning's loop around diffx's module. `slow`: as of rungs."""
    release(device)
    variants: dict[str, Callable[[], float]] = {}
    recipes, pool = rungs(device, precision, bool(source.encoders), slow), Pool(device)
    for name, recipe in recipes.items():
        trainee = Trainee(config, recipe, source if recipe.encoder == "inline" else compiled, pool)
        trainee.warm_up()
        variants[name] = lambda trainee=trainee: seconds_of(trainee.step, steps, device)  # type: ignore[misc]
    if trainer:
        trained = Trained(config, source if device.type == "cpu" else compiled, device, precision)
        variants[TRAINED] = lambda: trained.seconds(steps)
    return [
        row | {"recipe": asdict(recipes[row["name"]]) if row["name"] in recipes else None}
        for row in rows(in_turn(variants, rounds), config.batch_size)
    ]


def rows(seconds: Seconds, batch_size: int) -> list[dict[str, Any]]:
    """Of each rung its speed over the peers' and over the rung before."""
    result, before = [], "peers"
    for name, times in seconds.items():
        over_peers, gain = speed_ratio(seconds["peers"], times), speed_ratio(seconds[before], times)
        rate = batch_size / statistics.median(times)
        result.append(
            {"name": name, "samples_per_second": rate, "over_peers": asdict(over_peers), "gain": asdict(gain)}
        )
        before = name
    return result


class Trained:
    """diffx's own module in Lightning's loop, its losses read every LOG_EVERY steps."""

    def __init__(self, config: Settings, source: Source, device: torch.device, precision: str) -> None:
        self.config, self.source, self.device, self.precision = config, source, device, precision
        for name in ("lightning.pytorch", "lightning.fabric", "lightning.pytorch.utilities.rank_zero"):
            logging.getLogger(name).setLevel(logging.ERROR)
        warnings.filterwarnings("ignore", module="lightning.*")
        model = build_model(config)
        optimizer = OPTIMIZERS["fused"]
        self.module = DiffusionModule(
            model,
            lambda parameters: optimizer(parameters, lr=1e-4, weight_decay=0.0),
            {need: source.encoders[need] for need in model.plan.needs if need in source.encoders},
            seed=0,
            label_dropout=0.1,
            ema_decay=0.9999,
            compile="blocks" if device.type == "cuda" else "none",
        )

    def seconds(self, steps: int) -> float:
        """Seconds a step, after two that warm up."""
        stopwatch = Stopwatch(self.device)
        trainer = L.Trainer(
            accelerator=self.device.type,
            devices=1,
            precision=self.precision,  # type: ignore[arg-type]  # a name among Lightning's
            gradient_clip_val=1.0,
            max_steps=steps + 2,
            max_epochs=-1,
            logger=False,
            callbacks=[stopwatch],
            enable_progress_bar=False,
            enable_checkpointing=False,
            enable_model_summary=False,
            use_distributed_sampler=False,
            num_sanity_val_steps=0,
        )
        images = bool(self.module._services)
        trainer.fit(
            self.module,
            self.source.loader("shards", self.config.batch_size, images, pinned=self.device.type == "cuda"),
        )
        return stopwatch.elapsed / steps


class Stopwatch(L.Callback):
    """Seconds from the end of the second step to the end of training, with the losses read as a run reads them."""

    def __init__(self, device: torch.device) -> None:
        self.device, self.begun, self.elapsed = device, 0.0, 0.0
        self.read: dict[str, float] = {}

    def on_train_batch_end(self, trainer: L.Trainer, *args: Any) -> None:
        if trainer.global_step % LOG_EVERY == 0:
            module = trainer.lightning_module
            assert isinstance(module, DiffusionModule)
            self.read = {name: value.item() for name, value in module.terms.items()}
        if trainer.global_step == 2:
            self.begun = now(self.device)

    def on_train_end(self, trainer: L.Trainer, *args: Any) -> None:
        self.elapsed = now(self.device) - self.begun
