"""Improved precision and recall (Kynkäänniemi et al. 2019, arXiv:1904.06991).

A set's manifold is the union of balls around its points that reach to their k-th nearest neighbours. Precision is the
share of samples in the manifold of real images, recall the share of real images in that of samples.
"""

import torch
from torch import Tensor

from diffx.errors import DiffxError
from diffx.metrics.image_metric import KeptFeatures

NEIGHBOURS = 3
CHUNK = 1024
SURFACE = 1e-12  # of the largest squared length: float64 rounds sums of 2,048 products to about 1e-14 of it


class Precision(KeptFeatures):
    """The share of images in the manifold of real ones."""

    higher_is_better = True

    def compute(self) -> Tensor:
        """() float64. Raises DiffxError for fewer than four images."""
        return torch.tensor(precision(self.rows(), self._reference()), dtype=torch.float64)


class Recall(KeptFeatures):
    """The share of real images in the manifold of images."""

    higher_is_better = True

    def compute(self) -> Tensor:
        """() float64. Raises DiffxError for fewer than four images."""
        return torch.tensor(recall(self.rows(), self._reference()), dtype=torch.float64)


def precision(samples: Tensor, reference: Tensor, k: int = NEIGHBOURS) -> float:
    """Of features (N, D) of samples against features (M, D) of real images.

    Distances are in float64; the ADM suite has them in float16, which moves the number by up to 0.005.

    Raises:
        DiffxError: no more than k points on a side.
    """
    _check(samples, reference, k)
    return _covered(samples, reference.to(samples), k)


def recall(samples: Tensor, reference: Tensor, k: int = NEIGHBOURS) -> float:
    """As precision, the other way round."""
    _check(samples, reference, k)
    return _covered(reference.to(samples), samples, k)


def _check(samples: Tensor, reference: Tensor, k: int) -> None:
    for name, points in (("samples", samples), ("reference images", reference)):
        if len(points) <= k:
            raise DiffxError(f"Precision and recall need more than {k} {name}, and there are {len(points)}.")


def _covered(points: Tensor, balls: Tensor, k: int) -> float:
    """The share of `points` in at least one of the balls around `balls`, on their surface included.

    In float64, with room for its rounding: a point that is another's k-th neighbour lies on its surface exactly, and in
    float32 falls to either side (.34 of .48 was seen on whole-numbered features).
    """
    points, balls = points.double(), balls.double()
    room = SURFACE * float(max(points.square().sum(1).max(), balls.square().sum(1).max()))
    # The nearest of all is the point itself.
    nearest = [_squared(part, balls).topk(k + 1, largest=False).values[:, k] for part in balls.split(CHUNK)]
    radii = torch.cat(nearest) + room
    inside = torch.cat([(_squared(part, balls) <= radii).any(dim=1) for part in points.split(CHUNK)])
    return inside.double().mean().item()


def _squared(a: Tensor, b: Tensor) -> Tensor:
    """Squared distances (A, B)."""
    return (a.square().sum(1)[:, None] - 2 * a @ b.T + b.square().sum(1)).clamp(min=0)
