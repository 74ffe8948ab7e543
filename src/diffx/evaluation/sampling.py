"""Samples of a backbone: sample i depends on the seed and i alone."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from diffx.backbone import Backbone
from diffx.backbone.protocol import state_shape, unpack
from diffx.config.protocol import precision_of
from diffx.config.settings import Settings
from diffx.config.target import make
from diffx.evaluation.conditions import Conditions, Labels
from diffx.objective import Objective
from diffx.processes.arithmetic import arithmetic
from diffx.sampler import Field, SampleNoise
from diffx.sampler.guidance import AnyGuidance, FitsObjective


class Sampling:
    """Makes samples of a backbone: sample i depends on the seed and i alone, not on batches or devices."""

    def __init__(self, settings: Settings, objective: Objective, conditions: Conditions | None = None) -> None:
        """conditions: of the samples; None: the labels that settings.eval says."""
        self.conditions = conditions or Labels(settings.eval.labels, settings.eval.seed)
        self.sampler: Callable[..., Tensor] = make(settings.sampler)
        self.guidance: AnyGuidance = make(settings.guidance)
        if isinstance(self.guidance, FitsObjective):
            self.guidance.check_objective(objective)
        self.settings, self.objective = settings.eval, objective
        self.precision, self._compile = precision_of(settings), settings.compile != "none"

    @torch.no_grad()
    def batches(self, backbone: Backbone, indices: range, device: torch.device) -> Iterator[Tensor]:
        """Samples `indices`, batch by batch: x (b, C, H, W) in float32, whatever the network computes in. Where
        training is compiled, the blocks are too."""
        was_training = backbone.training
        backbone.eval()
        shape = state_shape(backbone)
        for start in range(0, len(indices), self.settings.batch_size):
            part = indices[start : start + self.settings.batch_size]
            y, null = self.conditions(backbone, part, device)
            noise = SampleNoise(self.settings.seed, part)
            field = Field(backbone, self.objective, y, null, self.guidance)
            with arithmetic(self.precision, device), _compiled(backbone, self._compile):
                state = self.sampler(field, noise.draw(shape).to(device), noise).float()
            yield unpack(state, backbone.streams)["image"]
        backbone.train(was_training)

    def decode(self, decoder: Callable[..., Tensor], x: Tensor, rounding: str) -> Tensor:
        """uint8 images of x. In bfloat16 an autoencoder would be off by levels, so that it decodes in TF32 then."""
        with arithmetic("32" if self.precision == "32" else "tf32", x.device):
            return decoder(x, rounding)


@contextmanager
def _compiled(backbone: Backbone, on: bool) -> Iterator[None]:
    """The blocks compiled each by itself, inside this block alone: an average is a teacher in training as well, which
    must not become another one by being measured. What torch has compiled before it finds again."""
    blocks = list(backbone.blocks.children()) if on else []
    try:
        for block in blocks:
            block.forward = torch.compile(block.forward, dynamic=False)
        yield
    finally:
        for block in blocks:
            block.__dict__.pop("forward", None)
