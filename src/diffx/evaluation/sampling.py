"""Samples of a backbone: sample i depends on the seed and i alone."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from omegaconf import DictConfig
from torch import Tensor

from diffx.backbone import Backbone
from diffx.backbone.protocol import state_shape, unpack
from diffx.config.target import make
from diffx.errors import DiffxError
from diffx.objective import Objective
from diffx.pixels.values import check_rounding
from diffx.sampler import Field, SampleNoise
from diffx.sampler.guidance import AnyGuidance
from diffx.streams import Streams

if TYPE_CHECKING:
    pass


LABELS = ("balanced", "random")


@dataclass(frozen=True)
class SampleSettings:
    """How samples are made: labels "balanced" (class i mod classes for sample i) or "random", `seed`, batches."""

    labels: str
    seed: int
    batch_size: int

    def __post_init__(self) -> None:
        if self.labels not in LABELS:
            raise DiffxError(f"eval.labels={self.labels} is not known; type eval.labels=balanced or random.")
        if self.batch_size < 1:
            raise DiffxError(f"eval.batch_size={self.batch_size} must be at least 1; type eval.batch_size=250.")

    def of(self, index: int, classes: int) -> int:
        """The label of sample `index`."""
        if self.labels == "balanced":
            return index % classes
        rng = Streams(self.seed, index).own("label")
        return int(torch.randint(classes, (), generator=rng))


class Sampling:
    """Makes samples of a backbone: sample i depends on the seed and i alone, not on batches or devices."""

    def __init__(self, config: DictConfig, objective: Objective, label: int | None = None) -> None:
        classes = config.data.num_classes
        if label is not None and not 0 <= label < classes:
            raise DiffxError(f"label {label} is none of the {classes} classes; type a number from 0 to {classes - 1}.")
        self.label = label
        self.sampler: Callable[..., Tensor] = make(config.sampler)
        self.guidance: AnyGuidance = make(config.guidance)
        check_rounding(config.eval.get("rounding", "nearest"))
        self.settings = SampleSettings(config.eval.labels, config.eval.seed, config.eval.batch_size)
        self.objective = objective

    @torch.no_grad()
    def batches(self, backbone: Backbone, indices: range, device: torch.device) -> Iterator[Tensor]:
        """Samples `indices` in float32, batch by batch: x (b, C, H, W)."""
        was_training = backbone.training
        backbone.eval()
        shape = state_shape(backbone)
        for start in range(0, len(indices), self.settings.batch_size):
            part = indices[start : start + self.settings.batch_size]
            labels = torch.tensor([self._label(i, backbone.num_classes) for i in part], device=device)
            noise = SampleNoise(self.settings.seed, part)
            field = Field(backbone, self.objective, labels, backbone.null_condition(labels), self.guidance)
            state = self.sampler(field, noise.draw(shape).to(device), noise).float()
            yield unpack(state, backbone.streams)["image"]
        backbone.train(was_training)

    def _label(self, index: int, classes: int) -> int:
        return self.settings.of(index, classes) if self.label is None else self.label
