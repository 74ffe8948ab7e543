"""Dispersive loss: representation regularisation without pairs (Wang & He 2025, arXiv 2506.09027)."""

import math

import torch
from torch import Tensor

from diffx.backbone import Backbone
from diffx.errors import DiffxError
from diffx.plugin import Aux, Plugin, Schedule, Seen


class Dispersive(Plugin):
    """Pushes the images of a batch apart: log mean exp(−D_ij / temperature) over all B² pairs, weight 0.25.

    D_ij = |z_i − z_j|² / dim, z_i all tokens of image i after block `depth`, flattened. The zeros of the diagonal are
    in the mean, as released. depth counts blocks from 1; None is the last one (the PyTorch release, temperature 1,
    weight 0.25); the paper, in JAX, takes a quarter of the blocks, temperature 0.5 and weight 0.5. The batch is that of
    one rank and is not gathered, as in both.
    """

    whole = True
    across_samples = True

    def __init__(self, depth: int | None = None, weight: float | Schedule = 0.25, temperature: float = 1.0) -> None:
        super().__init__(weight)
        if not 0 < temperature < math.inf:
            raise DiffxError(f"plugins.dispersive.temperature={temperature} must be positive; type 1.0.")
        self.depth, self.temperature = depth, temperature

    def setup(self, backbone: Backbone) -> None:
        blocks = len(backbone.blocks)
        depth = blocks if self.depth is None else self.depth
        if not 1 <= depth <= blocks:
            raise DiffxError(
                f"plugins.dispersive.depth={depth} counts blocks from 1, and the backbone has {blocks}; "
                f"type a number from 1 to {blocks}."
            )
        self.reads = (depth,)

    def loss(self, seen: Seen, out: Tensor, aux: Aux) -> Tensor:
        z = seen[self.reads[0]].x.flatten(1).float()
        distances = (z.unsqueeze(0) - z.unsqueeze(1)).square().mean(-1)
        return torch.logsumexp(-distances.flatten() / self.temperature, 0) - 2 * math.log(len(z))
