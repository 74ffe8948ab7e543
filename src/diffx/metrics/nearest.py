"""How near samples come to the training images: small data can be memorised, and a Fréchet distance will not say so."""

from functools import partial
from typing import Any

import torch
from torch import Tensor

from diffx.errors import DiffxError
from diffx.metrics.image_metric import ImageMetric
from diffx.processes.gather import all_reduced


class NearestTraining(ImageMetric):
    """The mean over images of the distance to the nearest of `training` (N, C, H, W): 0 for copies."""

    higher_is_better = True
    n: Tensor
    sum: Tensor

    def __init__(self, training: Tensor, **settings: Any) -> None:
        super().__init__(partial(nearest_distance, training=training), dist_sync_fn=all_reduced, **settings)
        self.add_state("n", torch.zeros((), dtype=torch.int64), "sum")
        self.add_state("sum", torch.zeros((), dtype=torch.float64), "sum")

    def update(self, images: Tensor) -> None:
        self.n = self.n + len(images)
        self.sum = self.sum + self.features(images).to(self.sum).sum()

    def compute(self) -> Tensor:
        """() float64. Raises DiffxError where there are no images."""
        if not self.n:
            raise DiffxError("The distance to the nearest training image needs at least 1 image, and there are 0.")
        return self.sum / self.n


@torch.no_grad()
def nearest_distance(images: Tensor, training: Tensor, chunk: int = 4096) -> Tensor:
    """For each of uint8 images (M, C, H, W), the root mean square difference to the nearest of `training` (N, C, H, W).

    In units of the pixel range: 0 is a copy, 1 is black against white. Returns float32 (M,).
    """
    x = _centred(images.to(training.device))
    lowest = torch.full((len(x),), torch.inf, device=x.device)
    nearest = torch.zeros(len(x), dtype=torch.int64, device=x.device)
    for start in range(0, len(training), chunk):
        known = _centred(training[start : start + chunk])
        # |x − k|² without the term |x|², which does not change which k is nearest.
        distance, place = torch.addmm(known.square().sum(1), x, known.T, alpha=-2).min(1)
        closer = distance < lowest
        lowest, nearest = torch.where(closer, distance, lowest), torch.where(closer, place + start, nearest)
    # The expanded square cancels badly near zero: measured anew, so that a copy scores exactly 0.
    return (x - _centred(training[nearest])).square().mean(1).sqrt()


def _centred(images: Tensor) -> Tensor:
    return images.flatten(1).float() / 255 - 0.5
