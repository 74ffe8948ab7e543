"""HASTE: alignment and attention distillation that stop early (Wang et al. 2025, arXiv 2505.16792)."""

from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from diffx.backbone import Backbone
from diffx.errors import DiffxError
from diffx.frozen.encoder import encoder_spec
from diffx.plugin import Aux, Batch, Plugin, Schedule, Seen
from diffx.tokens import gather
from diffx_plugins.haste.attention import LAYERS
from diffx_plugins.repa import alignment_depth, mlp_projector

WEIGHTS = {"align": 0.5, "attention": 0.5}


class HASTE(Plugin):
    """REPA's alignment, and the attention of `blocks` pulled to that of the encoder's last four layers, until `stop`.

    attention: cross-entropy between the rows of softmax(q·k / √d) of encoder and student, mean over rows, heads and
    blocks, in float32; of the heads as many as both have. blocks count from 0 and depth from 1, as released: 4 to 7 and
    8; below 12 blocks the middle four. stop: 250K steps as for L and XL (100K for B); from there on nothing of it runs,
    where the released code goes on to run the encoder.
    """

    stop = 250_000

    def __init__(
        self,
        blocks: Sequence[int] | None = None,
        depth: int | None = None,
        weight: "Mapping[str, float | Schedule] | None" = None,
        encoder: str = "dinov2_vitb14",
        projector_dim: int | None = None,
    ) -> None:
        chosen = {**WEIGHTS, **(weight or {})}
        if chosen.keys() != WEIGHTS.keys():
            raise DiffxError(f"plugins.haste.weight has {sorted(chosen)}; type a number for align and for attention.")
        super().__init__(chosen)
        self.blocks, self.depth, self.encoder, self.projector_dim = blocks, depth, encoder, projector_dim
        self.teacher = f"attention/{encoder}"
        self.needs = ("image", self.teacher)

    def setup(self, backbone: Backbone) -> None:
        count = len(backbone.blocks)
        first = 4 if count >= 12 else max(0, (count - LAYERS) // 2)
        self.attends = tuple(range(first, min(first + LAYERS, count)) if self.blocks is None else self.blocks)
        if not 1 <= len(self.attends) <= LAYERS or not all(0 <= block < count for block in self.attends):
            raise DiffxError(
                f"plugins.haste.blocks={list(self.attends)} are to be one to {LAYERS} blocks, counted from 0, of a "
                f"backbone of {count}; type for instance [{first}]."
            )
        depth = self.attends[-1] + 1 if self.depth is None else self.depth
        self.reads = (alignment_depth("haste", depth, backbone),)
        self.projector = mlp_projector(backbone.hidden_size, self.projector_dim, encoder_spec(self.encoder).dim)

    def prepare(self, batch: Batch, rng: torch.Generator) -> Aux:
        features, logits = batch[self.teacher]
        return {"features": features, "logits": logits}

    def loss(self, seen: Seen, out: Tensor, aux: Aux) -> dict[str, Tensor]:
        (tokens,) = (seen[depth] for depth in self.reads)
        features = aux["features"] if tokens.ids is None else gather(aux["features"], tokens.ids)
        x = tokens.x[:, : features.shape[1]]
        align = -F.cosine_similarity(self.projector(x).float(), features.float(), dim=-1, eps=1e-12).mean()
        layers = aux["logits"].unbind(1)[-len(self.attends) :]
        distances = []
        for block, logits in zip(self.attends, layers, strict=True):
            q, k = seen["attention", block]
            distances.append(attention_distance(q, k, logits))
        return {"align": align, "attention": torch.stack(distances).mean()}


def attention_distance(q: Tensor, k: Tensor, logits: Tensor) -> Tensor:
    """Cross-entropy of attention from queries and keys (B, H, N, d) to a teacher's logits (B, H', N, N), over the grid
    and the heads that both have."""
    heads, tokens = min(q.shape[1], logits.shape[1]), logits.shape[-1]
    q, k = q[:, :heads, :tokens].float(), k[:, :heads, :tokens].float()
    student = (q @ k.transpose(-2, -1) / q.shape[-1] ** 0.5).log_softmax(-1)
    return -(logits[:, :heads].float().softmax(-1) * student).sum(-1).mean()
