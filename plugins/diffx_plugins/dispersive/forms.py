"""The three forms of the dispersive loss (Wang & He 2025, arXiv 2506.09027, table 1) of a batch."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor


def squared(z: Tensor) -> Tensor:
    """|z_i − z_j|² / dim of features (B, dim), as the releases scale it: (B, B)."""
    return (z.unsqueeze(0) - z.unsqueeze(1)).square().mean(-1)


def cosine(z: Tensor) -> Tensor:
    """−cos(z_i, z_j) of features (B, dim): (B, B)."""
    unit = F.normalize(z, dim=-1)
    return -unit @ unit.T


def infonce(distances: Tensor, temperature: float) -> Tensor:
    """log mean exp(−D / temperature) over all pairs of (B, B), the zeros of the diagonal among them, as released."""
    return torch.logsumexp(-distances.flatten() / temperature, 0) - 2 * math.log(len(distances))


def hinge(distances: Tensor, margin: float) -> Tensor:
    """The mean of max(0, margin − D)² over all pairs of (B, B)."""
    return (margin - distances).clamp(min=0).square().mean()


def covariance(z: Tensor) -> Tensor:
    """The sum of squares of the covariances (over the batch) of different features of z (B, dim), over dim. Of B rows:
    the products of images have the same sum as the dim² covariances, which nobody could keep."""
    centred = (z - z.mean(0)) / math.sqrt(max(len(z) - 1, 1))
    of_all = (centred @ centred.T).square().sum()
    return (of_all - centred.square().sum(0).square().sum()) / z.shape[1]
