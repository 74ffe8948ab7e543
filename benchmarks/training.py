"""A training step in parts, each of which can be done in the ways that a Recipe names."""

import copy
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from benchmarks.feed import Ahead, Source
from benchmarks.peers import as_peers_write_it, ema_by_parameter
from diffx import step
from diffx.assemble.flops import count_flops
from diffx.assemble.model import build_model
from diffx.backbone import Backbone
from diffx.backbone.layers.fused import check_fused, fuse_blocks
from diffx.backbone.protocol import Memory
from diffx.config.settings import Settings
from diffx.frozen.encoder import encoder_spec
from diffx.plugin import Batch
from diffx.step import Draws
from diffx.streams import Streams
from diffx.train.ema import update_ema

PARTS = ("data", "encoder", "draw", "forward", "backward", "optimizer", "ema", "logging")
LOG_EVERY = 20
LABEL_DROPOUT, DECAY, CLIP = 0.1, 0.9999, 1.0
OPTIMIZERS: dict[str, Callable[..., torch.optim.Optimizer]] = {
    "loop": partial(torch.optim.AdamW, foreach=False),
    "foreach": partial(torch.optim.AdamW, foreach=True),
    "fused": partial(torch.optim.AdamW, fused=True),
}
EMAS = {"loop": ema_by_parameter, "foreach": update_ema}
Timed = Callable[[str], AbstractContextManager[None]]


@dataclass(frozen=True)
class Recipe:
    """How the parts of a step are done.

    blocks: "diffx" or as "peers" write them. layout: "shards" or "files". pinned: batches are copied to a GPU
    asynchronously from pinned memory. encoder: "inline", "compiled", or "ahead": compiled too, and on its own stream
    while the step before trains. stream: type of the residual stream in autocast. fused: as trainer.fused.
    compile: none | blocks | step | graphs (step with CUDA graphs).
    log_every: steps between readings of the losses.
    """

    blocks: str = "diffx"
    layout: str = "shards"
    pinned: bool = True
    encoder: str = "inline"
    stream: str = "float32"
    fused: bool = False
    compile: str = "none"
    precision: str = "32-true"
    optimizer: str = "fused"
    ema: str = "foreach"
    log_every: int = LOG_EVERY


def untimed(part: str) -> AbstractContextManager[None]:
    return nullcontext()


class Pool:
    """What trainees of one backbone share, so that all of them fit in memory: its weights, its average and, of the
    optimizers that are fused and of those that are not, the state."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.backbones: dict[str, Backbone] = {}
        self.averages: dict[str, Backbone] = {}
        self.states: dict[bool, Any] = {fused: defaultdict(dict) for fused in (False, True)}

    def share(self, config: Settings, backbone: Backbone) -> Backbone:
        """Give a backbone the weights of the first one that was like it; returns the average."""
        key = str(config.backbone)
        if key not in self.backbones:
            self.backbones[key] = copy.deepcopy(backbone).to(self.device)
            self.averages[key] = copy.deepcopy(self.backbones[key]).requires_grad_(False)
        backbone.load_state_dict(self.backbones[key].state_dict(keep_vars=True), assign=True)
        backbone.to(self.device)
        return self.averages[key]


class Trainee:
    """A model in training on made-up samples. `flops` are those of one image."""

    def __init__(self, config: Settings, recipe: Recipe, source: Source, pool: Pool) -> None:
        self.model = model = build_model(config)
        self.config, self.recipe, self.device = config, recipe, pool.device
        self.flops = count_flops(model.backbone, model.plugins, model.objective, model.plan, source.encoder_flops)
        self.backbone, self.ema = model.backbone, pool.share(config, model.backbone)
        self.plugins = {name: plugin.to(pool.device) for name, plugin in model.plugins.items()}
        modules = [self.backbone, *self.plugins.values()]
        self.parameters = [p for module in modules for p in module.parameters() if p.requires_grad]
        self.optimizer = OPTIMIZERS[recipe.optimizer](self.parameters, lr=1e-4, weight_decay=0.0)
        self.optimizer.state = pool.states[recipe.optimizer == "fused"]
        self.losses = self._compiled()
        self.batches = self._feed(source)
        self.count = 0
        self.read: dict[str, float] = {}  # the losses as last read back

    def step(self, part: Timed = untimed) -> None:
        """One whole training step; `part` is entered around each of PARTS."""
        with part("data"):
            batch = next(self.batches)
        with part("encoder"):
            batch = self._encoded(batch)
        with part("draw"):
            draws = self._draw(batch)
        if self.recipe.compile == "graphs":
            torch.compiler.cudagraph_mark_step_begin()
        with part("forward"), self._autocast():
            terms = self.losses(self.backbone, self.model.plan, self.plugins, self.model.objective, draws)
        with part("backward"):
            terms["total"].backward()
        with part("optimizer"):
            torch.nn.utils.clip_grad_norm_(self.parameters, CLIP)
            self.optimizer.step()
            self.optimizer.zero_grad(set_to_none=True)
        with part("ema"):
            EMAS[self.recipe.ema](self.ema, self.backbone, DECAY)
        self.count += 1
        if self.count % self.recipe.log_every == 0:
            with part("logging"):
                self.read_back(terms)

    def warm_up(self) -> None:
        """The steps after which all are alike: compilation and, for CUDA graphs, recording are over."""
        for _ in range(2 if self.recipe.compile == "none" else 4):
            self.step()

    def read_back(self, terms: dict[str, Tensor]) -> None:
        self.read = {name: value.item() for name, value in terms.items()}

    def _draw(self, batch: Batch) -> Draws:
        streams = Streams(0, self.count, device=self.device)
        model = self.model
        return step.draw(self.backbone, model.plan, self.plugins, model.objective, batch, {}, streams, LABEL_DROPOUT)

    def _autocast(self) -> torch.autocast:
        half = self.recipe.precision == "bf16-mixed"
        return torch.autocast(self.device.type, torch.bfloat16, enabled=half, cache_enabled=False)

    def _compiled(self) -> Callable[..., dict[str, Tensor]]:
        if self.recipe.blocks == "peers":
            as_peers_write_it(self.backbone)
        if self.recipe.stream != "float32":
            narrow_stream(self.backbone, getattr(torch, self.recipe.stream))
        if self.recipe.fused:
            check_fused(self.device, self.backbone.blocks)
            fuse_blocks(self.backbone.blocks)
        mode = self.recipe.compile
        if mode == "blocks":
            for block in self.backbone.blocks:
                block.compile(fullgraph=True, dynamic=False)
        if mode in ("step", "graphs"):
            backend_mode = "reduce-overhead" if mode == "graphs" else None
            return torch.compile(step.losses, fullgraph=True, dynamic=False, mode=backend_mode)
        return step.losses

    def _feed(self, source: Source) -> Iterator[Batch]:
        """Batches on the device, with the features that plugins need."""
        self.encoders = {need: source.encoders[need] for need in self.model.plan.needs if need in source.encoders}
        pinned = self.recipe.pinned and self.device.type == "cuda"
        batches = self._moved(
            iter(source.loader(self.recipe.layout, self.config.batch_size, bool(self.encoders), pinned))
        )
        return Ahead(batches, self._encode) if self.recipe.encoder == "ahead" else batches

    def _moved(self, batches: Iterator[Batch]) -> Iterator[Batch]:
        """On the device, with random features for encoders that nobody runs."""
        shape = (self.config.batch_size, self.backbone.grid_tokens)
        missing = [need for need in self.model.plan.needs if need not in self.encoders]
        features = {
            need: torch.randn(*shape, encoder_spec(need.removeprefix("features/")).dim, device=self.device)
            for need in missing
        }
        for batch in batches:
            moved = {name: value.to(self.device, non_blocking=self.recipe.pinned) for name, value in batch.items()}
            yield moved | features

    def _encode(self, batch: Batch) -> Batch:
        return batch | {need: encode(batch["image"]) for need, encode in self.encoders.items()}

    def _encoded(self, batch: Batch) -> Batch:
        return batch if self.recipe.encoder == "ahead" else self._encode(batch)


def narrow_stream(backbone: Any, dtype: torch.dtype) -> None:
    """Make the residual stream of this type where it begins; in autocast it stays so."""
    embed = backbone.embed

    def narrowed(x: Tensor, t: Tensor, y: Tensor, memory: Memory) -> Any:
        tokens, cond = embed(x, t, y, memory)
        return tokens._replace(x=tokens.x.to(dtype)), cond

    backbone.embed = narrowed


def split_of_step(trainee: Trainee, steps: int) -> dict[str, float]:
    """Seconds of each of PARTS in a step, in steps of their own: on a GPU between events in its stream, but for "data",
    which is what the host waits. Reading the losses is timed every step and counted once in log_every."""
    spans: dict[str, list[Callable[[], float]]] = {part: [] for part in PARTS}

    @contextmanager
    def part(name: str) -> Iterator[None]:
        if trainee.device.type == "cuda" and name != "data":
            begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
            begin.record()
            yield
            end.record()
            spans[name].append(lambda: begin.elapsed_time(end) / 1e3)
            return
        clock = time.process_time if trainee.device.type == "cpu" else time.perf_counter
        start = clock()
        yield
        elapsed = clock() - start
        spans[name].append(lambda: elapsed)

    every, trainee.count = trainee.recipe.log_every, 0
    for _ in range(steps):
        trainee.count = every - 1
        trainee.step(part)
    if trainee.device.type == "cuda":
        torch.cuda.synchronize(trainee.device)
    seconds = {name: sum(span() for span in times) / steps for name, times in spans.items()}
    return seconds | {"logging": seconds["logging"] / every}
