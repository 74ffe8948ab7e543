"""The settings of a run, typed: kind, range and choices stand beside each name. What a user types is in conf/.

Settings under a _target_ are a Node: the class that it names says which there are.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from functools import cached_property
from typing import Any

from diffx.config.identity import identity
from diffx.config.target import Node
from diffx.run.name import short_hash

SEEDS = 2**32
STEPS = 2**53  # counts beyond this are no longer exact numbers
BATCH = 2**24  # images at once: beyond any machine
ROUNDINGS = ("nearest", "truncate")


def number(
    default: Any = None, *, least: float = 0, below: float = math.inf, required: bool = False, word: str = ""
) -> Any:
    """A number in [least, below). word: what may be typed in its place, and is a number when settings are made."""
    given = {} if required else {"default": default}
    return field(**given, metadata={"least": least, "below": below, "word": word})


def one_of(default: str, *choices: str) -> Any:
    """One of some words."""
    return field(default=default, metadata={"choices": choices})


@dataclass(frozen=True, kw_only=True)
class Budget:
    """Hours of training after which a run ends, in the unit of its device."""

    cpu_hours: float | None = number(least=math.ulp(0.0), below=1e9)
    gpu_hours: float | None = number(least=math.ulp(0.0), below=1e9)

    @property
    def hours(self) -> dict[str, float]:
        """By unit, those that are given."""
        return {f.name: getattr(self, f.name) for f in fields(self) if getattr(self, f.name) is not None}


@dataclass(frozen=True, kw_only=True)
class TextSettings:
    """Sizes of encoded captions: tokens of one, channels of a token, width of the pooled vector."""

    length: int = number(least=1, below=65536, required=True)
    channels: int = number(least=1, below=1_000_000, required=True)
    pooled: int = number(0, below=1_000_000)


@dataclass(frozen=True, kw_only=True)
class DataSettings:
    """Of the training data: sizes of x (channels, size), pixels of the images, what conditions them (classes, or text
    and then num_classes is 0), and where they come from."""

    name: str
    channels: int = number(least=1, below=65536, required=True)
    size: int = number(least=1, below=65536, required=True)
    image_size: int = number(least=1, below=65536, required=True)
    num_classes: int = number(least=0, below=10_000_001, required=True)
    text: TextSettings | None = None
    encoder: str
    decoder: str | None
    workers: int = number(0, below=1024)
    source: Node


@dataclass(frozen=True, kw_only=True)
class TrainerSettings:
    """Where and in which arithmetic a run trains."""

    accelerator: str = one_of("auto", "auto", "cpu", "cuda")
    devices: int = number(1, least=1, below=4096, word="auto")
    num_nodes: int = number(1, least=1, below=65536)
    strategy: str = one_of("ddp", "ddp", "fsdp")
    precision: str = one_of("32-true", "32-true", "tf32", "bf16-mixed", "16-mixed", "fp8")
    stream: str = one_of("float32", "float32", "bfloat16")
    fused: bool = False
    accumulate: int = number(1, least=1, below=BATCH)
    activation_checkpointing: bool = False
    gradient_clip_val: float | None = number(1.0, below=1e12)
    threads: int | None = number(None, least=1, below=4096)


@dataclass(frozen=True, kw_only=True)
class EvalSettings:
    """When a run is measured, on how many samples, of which labels or prompts (a file; None: the data's), and by what.
    negative: the prompt that guidance leads away from; None: the backbone's null condition."""

    first: float = number(100, least=1, below=STEPS)
    per_doubling: float = number(2, least=1e-3, below=1000)
    samples: int = number(500, least=2, below=2**31)
    batch_size: int = number(250, least=1, below=BATCH)
    labels: str = one_of("balanced", "balanced", "random")
    rounding: str = one_of("nearest", *ROUNDINGS)
    precision: str = one_of("auto", "auto", "tf32", "bf16", "32")
    decoder: str | None = None
    prompts: str | None = None
    negative: str | None = None
    seed: int = number(0, below=SEEDS)
    metrics: Node


@dataclass(frozen=True, kw_only=True)
class LoggerSettings:
    """Where a run's numbers go beside its folder. lightning: the logger that `name: lightning` means."""

    name: str = one_of("wandb", "wandb", "tensorboard", "csv", "lightning", "none")
    mode: str = one_of("auto", "auto", "online", "offline")
    project: str = "diffx"
    lightning: Node | None = None


@dataclass(frozen=True, kw_only=True)
class LearningRateSettings:
    """How the learning rate goes over the steps: diffx.schedule.LearningRate."""

    name: str = one_of("constant", "constant", "cosine", "wsd", "linear")
    warmup: int = number(0, below=STEPS)
    steps: int | None = number(None, least=1, below=STEPS)
    final: float = number(0.0, below=1)
    decay: float = number(0.2, least=1e-6, below=1)


@dataclass(frozen=True, kw_only=True)
class Settings:
    """All of a run. Made by diffx.config.read.settings_of alone, which checks them."""

    experiment: str
    study: str | None = None
    title: str | None = None
    autoencoder: str | None = None
    end_to_end: Node | None = None
    seed: int = number(0, below=SEEDS)
    batch_size: int = number(32, least=1, below=BATCH)
    max_steps: int = number(1000, least=1, below=STEPS)
    budget: Budget | None = None
    label_dropout: float = number(0.1, below=1)
    ema_decay: float = number(0.99, below=1)
    more_ema_decays: tuple[float, ...] = field(default=(), metadata={"least": 0, "below": 1, "as_in": "[0.999]"})
    snapshot_steps: int | None = number(None, least=1, below=STEPS)
    ema_length: float | None = number(None, least=0.01, below=0.25)
    compile: str = one_of("none", "none", "blocks", "step")
    log_every: int = number(20, least=1, below=STEPS)
    checkpoint_minutes: float = number(5, below=1e6)
    checkpoint_share: float = number(0.01, least=1e-6, below=1e6)
    max_skipped_steps: int = number(10, least=1, below=STEPS)
    resume: str = "auto"
    runs_dir: str = "runs"
    sweep_jobs: int | None = number(None, least=1, below=4096)
    sweep_stop: float | None = number(None, least=1e-4, below=0.5)
    sweep_prune: float | None = number(None, least=1e-3, below=2)
    sweep_metric: str | None = None
    data: DataSettings
    backbone: Node
    objective: Node
    sampler: Node
    guidance: Node
    optimizer: Node
    learning_rate: LearningRateSettings = field(default_factory=LearningRateSettings)
    trainer: TrainerSettings = field(default_factory=TrainerSettings)
    eval: EvalSettings
    logger: LoggerSettings = field(default_factory=LoggerSettings)
    plugins: Mapping[str, Node] = field(default_factory=dict)

    @cached_property
    def id(self) -> str:
        """A short hash of what the run is, without seed, paths, length and hardware."""
        return short_hash(identity(self))

    @property
    def name(self) -> str:
        """What files of a run say that they are of: its id and its seed."""
        return f"{self.id}/s{self.seed}"

    @property
    def decoder(self) -> str | None:
        """The autoencoder that decodes samples; None: the one that encoded."""
        return self.eval.decoder or self.data.decoder

    @property
    def source(self) -> Node:
        """data.source, but that it decodes with eval.decoder and is measured by eval.prompts where those are set."""
        given = {"decoder": self.eval.decoder, "prompts": self.eval.prompts}
        own, chosen = self.data.source, {key: value for key, value in given.items() if value is not None}
        return replace(own, arguments={**own.arguments, **chosen}) if chosen else own

    @property
    def group(self) -> str:
        """What the run's folder lies in, and its group in W&B: the study, or the experiment."""
        return self.study or self.experiment

    @property
    def label(self) -> str:
        """The plugins in one word, and whether the autoencoder is trained with the network."""
        return "+".join([*self.plugins, *(["end_to_end"] if self.end_to_end else [])]) or "plain"

    @property
    def length(self) -> dict[str, Any]:
        """How long the run is to be: what decides whether a complete run is complete."""
        return {"max_steps": self.max_steps, "budget": self.budget.hours if self.budget else None}
