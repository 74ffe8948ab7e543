"""Times shaped to go with what they belong to."""

import math

from torch import Tensor


def expand_times(t: Tensor, x: Tensor) -> Tensor:
    """t (B,) as (B, 1, ...), to go with x (B, ...); a map of times (B, 1, H, W) goes with x as it is."""
    return t.view(-1, *(1 for _ in x.shape[1:])) if t.ndim == 1 else t


def dimension_shift(channels: int, height: int, width: int) -> float:
    """The shift of times that a latent of this size asks for: √(C·H·W / 4096), and 1 for smaller ones.

    The rule of RAE (Zheng et al. 2025, arXiv 2510.11690), whose code asserts the 1; 4096 is SD-VAE's 4·32·32. A larger
    latent still shows its content under noise that hides a smaller one's.
    """
    return max(1.0, math.sqrt(channels * height * width / 4096))
