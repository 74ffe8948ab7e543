"""How near samples come to the training images: small data can be memorised, and a Fréchet distance will not say so."""

import torch
from torch import Tensor


def nearest_distance(images: Tensor, training: Tensor, chunk: int = 256) -> Tensor:
    """For each of uint8 images (M, C, H, W), the root mean square difference to the nearest of `training` (N, C, H, W).

    In units of the pixel range: 0 is a copy, 1 is black against white. Returns float32 (M,).
    """
    known = training.flatten(1).float() / 255
    nearest = [torch.cdist(part.flatten(1).float() / 255, known).amin(1) for part in images.split(chunk)]
    return torch.cat(nearest) / known.shape[1] ** 0.5
