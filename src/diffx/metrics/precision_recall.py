"""Improved precision and recall (Kynkäänniemi et al. 2019, arXiv:1904.06991)."""

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from diffx.errors import DiffxError
from diffx.metrics.exact import exact_float32
from diffx.metrics.gather import all_gathered
from diffx.metrics.image_metric import ImageMetric, Network, all_rows

NEIGHBOURS = 3
CHUNK = 1024


class PrecisionAndRecall(ImageMetric):
    """Precision and recall of images against real ones.

    Args:
        network: images to features (B, D), all of which are kept.
        reference: gives the features (M, D) of real images, when they are first needed.
    """

    higher_is_better = True
    seen: list[Tensor]

    def __init__(self, network: Network, reference: Callable[[], Tensor], **settings: Any) -> None:
        super().__init__(network, dist_sync_fn=all_gathered, **settings)
        self._reference = reference
        self.add_state("seen", [], "cat")

    def update(self, images: Tensor) -> None:
        self.seen.append(self.features(images))

    def compute(self) -> dict[str, Tensor]:
        """ "precision" and "recall". Raises DiffxError for fewer than four images."""
        found = precision_recall(all_rows(self.seen), self._reference())
        return {name: torch.tensor(value, dtype=torch.float64) for name, value in found._asdict().items()}


class PrecisionRecall(NamedTuple):
    """precision: the share of samples that lie in the manifold of the reference; recall: the reverse."""

    precision: float
    recall: float


def precision_recall(samples: Tensor, reference: Tensor, k: int = NEIGHBOURS) -> PrecisionRecall:
    """Of features (N, D) of samples against features (M, D) of real images.

    A set's manifold is the union of balls around its points that reach to their k-th nearest neighbours. Distances are
    in float32; the ADM suite has them in float16, which moves either number by up to 0.005.

    Raises:
        DiffxError: no more than k points on a side.
    """
    for name, points in (("samples", samples), ("reference images", reference)):
        if len(points) <= k:
            raise DiffxError(f"Precision and recall need more than {k} {name}, and there are {len(points)}.")
    with exact_float32(samples.device):
        # Centred, since |a|² − 2ab + |b|² loses digits far from the origin.
        reference = reference.to(samples)
        centre = reference.mean(0)
        samples, reference = samples - centre, reference - centre
        return PrecisionRecall(_covered(samples, reference, k), _covered(reference, samples, k))


def _covered(points: Tensor, balls: Tensor, k: int) -> float:
    """The share of `points` in at least one of the balls around `balls`."""
    # The nearest of all is the point itself.
    radii = torch.cat([_squared(part, balls).topk(k + 1, largest=False).values[:, k] for part in balls.split(CHUNK)])
    inside = torch.cat([(_squared(part, balls) <= radii).any(dim=1) for part in points.split(CHUNK)])
    return inside.double().mean().item()


def _squared(a: Tensor, b: Tensor) -> Tensor:
    """Squared distances (A, B)."""
    return (a.square().sum(1)[:, None] - 2 * a @ b.T + b.square().sum(1)).clamp(min=0)
