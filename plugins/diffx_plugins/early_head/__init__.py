"""The early head of RAEv2's network (arXiv 2605.18324): trained with a loss of its own, and at sampling the guide."""

from typing import Any

import torch
from torch import Tensor

from diffx.backbone import Backbone
from diffx.errors import DiffxError
from diffx.plugin import Aux, Batch, Plugin, Schedule
from diffx_plugins.early_head.guidance import EarlyHeadGuidance

__all__ = ["EarlyHead", "EarlyHeadGuidance"]


class EarlyHead(Plugin):
    """The objective's loss of the early prediction, which is the second half of the network's channels. Its gradient
    reaches the blocks before it."""

    needs = ("t", "noise")

    def __init__(self, weight: float | Schedule = 1.0) -> None:
        super().__init__(weight)

    def setup(self, backbone: Backbone) -> None:
        if getattr(backbone, "early_depth", None) is None:
            raise DiffxError(
                f"plugins.early_head trains the early head of a network, and this {type(backbone).__name__} has none; "
                "type backbone=rae2_xl, or another diffx.backbone.RAE2, with backbone.early_depth=8."
            )
        if self.stop is not None:
            raise DiffxError(
                "plugins.early_head.stop would leave weights of the network without a gradient; type "
                "'plugins.early_head.weight={schedule: jump, first: 1.0, end: STEP}' instead."
            )
        if "chain" in self.objective.gives:
            raise DiffxError(
                "plugins.early_head and objective=ddpm both have a meaning for the second half of the network's "
                "channels; type objective=linear."
            )

    def prepare(self, batch: Batch, rng: torch.Generator) -> Aux:
        return {"x": batch["x"], "noise": batch["noise"], "t": batch["t"]}

    def loss(self, seen: Any, out: Tensor, aux: Aux) -> Tensor:
        early = out[:, aux["x"].shape[1] :].float()
        return self.objective.loss(early, aux["x"], aux["noise"], aux["t"]).mean()
