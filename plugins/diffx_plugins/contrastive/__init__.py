"""Contrastive flow matching (Stoica et al. 2025, arXiv 2506.05350)."""

import torch
from torch import Tensor

from diffx.backbone import Backbone
from diffx.backbone.protocol import unpack
from diffx.errors import DiffxError
from diffx.plugin import Aux, Batch, Plugin, Schedule, Seen
from diffx_plugins.contrastive.guidance import ContrastiveGuidance

__all__ = ["Contrastive", "ContrastiveGuidance"]

PARTNERS = ("all", "conditional", "class_conditioned", "neighbour")


class Contrastive(Plugin):
    """Pushes the prediction of each sample away from the target of another one: −MSE(out_i, target_j), weight 0.05.

    partners: "all", j is uniform over the other samples of this rank's batch, of its own class or not, as released;
    "conditional", samples without a label are left out and the rest scaled by B / count; "class_conditioned", j is
    uniform over the samples with another label (after dropping), and a sample that has none is left out; "neighbour",
    the sample before it in the batch, as in SR-DiT. Of several streams the image alone is pushed. The loss is negative
    and so can be the total. Scale and weight are those of the paper; the code's own default weight is 1.0.
    """

    needs = ("target", "label")
    across_samples = True

    def __init__(self, weight: float | Schedule = 0.05, partners: str = "all") -> None:
        super().__init__(weight)
        if partners not in PARTNERS:
            raise DiffxError(f"plugins.contrastive.partners={partners} is not known; type one of {PARTNERS}.")
        self.partners = partners

    def setup(self, backbone: Backbone) -> None:
        if backbone.text is not None and self.partners in ("conditional", "class_conditioned"):
            raise DiffxError(
                f"plugins.contrastive.partners={self.partners} is about classes, and {type(backbone).__name__} is "
                "conditioned by text; type plugins.contrastive.partners=all."
            )
        self.null, self._shapes = backbone.num_classes, dict(backbone.streams)

    def prepare(self, batch: Batch, rng: torch.Generator) -> Aux:
        target, label = unpack(batch["target"], self._shapes)["image"], batch["label"]
        if len(target) < 2:
            raise DiffxError(
                "plugins.contrastive takes a partner from the batch, and there is one sample on this rank; type a "
                "batch_size of at least 2 for each."
            )
        others = ~torch.eye(len(target), dtype=torch.bool, device=target.device)
        share = torch.ones(len(target), device=target.device)
        if self.partners == "neighbour":
            return {"other": target.roll(1, 0), "share": share}
        if self.partners == "conditional":
            share = (label != self.null).float()
            share = share * len(share) / share.sum().clamp(min=1)
        if self.partners == "class_conditioned":
            others = label.unsqueeze(0) != label.unsqueeze(1)
            share = others.any(1).float()
        return {"other": target[draw_partners(others, rng)], "share": share}

    def loss(self, seen: Seen, out: Tensor, aux: Aux) -> Tensor:
        other, out = aux["other"], unpack(out, self._shapes)["image"]
        errors = (out[:, : other.shape[1]].float() - other).square().flatten(1).mean(1)
        return -(errors * aux["share"]).mean()


def draw_partners(others: Tensor, rng: torch.Generator) -> Tensor:
    """For each sample (B,) one of those that its row of `others` (B, B) allows, uniformly; itself where it has none."""
    noise = torch.rand(others.shape, generator=rng, device=rng.device)
    alone = torch.eye(len(others), dtype=torch.bool, device=others.device)
    return torch.where(others, noise + 1, alone.float()).argmax(1)
