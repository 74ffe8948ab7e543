"""Velocity direction loss, of LightningDiT (Yao et al. 2025, arXiv 2501.01423)."""

import torch
import torch.nn.functional as F
from torch import Tensor

from diffx.plugin import Aux, Batch, Plugin, Schedule, Seen


class Direction(Plugin):
    """Asks the prediction to point where the target points: 1 − cos over channels, mean over places, weight 1.

    The target is the objective's (the velocity, in LightningDiT). It is added beside the squared error, as released.
    """

    needs = ("target",)

    def __init__(self, weight: float | Schedule = 1.0) -> None:
        super().__init__(weight)

    def prepare(self, batch: Batch, rng: torch.Generator) -> Aux:
        return {"target": batch["target"]}

    def loss(self, seen: Seen, out: Tensor, aux: Aux) -> Tensor:
        target = aux["target"]
        return 1 - F.cosine_similarity(out[:, : target.shape[1]].float(), target.float(), dim=1).mean()
