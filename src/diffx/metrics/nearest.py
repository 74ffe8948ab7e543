"""How near samples come to the training images: small data can be memorised, and a Fréchet distance will not say so."""

import torch
from torch import Tensor


@torch.no_grad()
def nearest_distance(images: Tensor, training: Tensor, chunk: int = 4096) -> Tensor:
    """For each of uint8 images (M, C, H, W), the root mean square difference to the nearest of `training` (N, C, H, W).

    In units of the pixel range: 0 is a copy, 1 is black against white. Returns float32 (M,).
    """
    x = _centred(images)
    lowest, nearest = torch.full((len(x),), torch.inf), torch.zeros(len(x), dtype=torch.int64)
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
