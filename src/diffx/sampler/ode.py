"""Deterministic samplers: the probability-flow ODE from noise (t = 1) to data (t = 0)."""

from itertools import pairwise

import torch
from torch import Tensor

from diffx.errors import DiffxError
from diffx.sampler.field import Field
from diffx.sampler.noise import Noise


class Euler:
    """Euler on `nfe` intervals, so `nfe` forwards (REPA's euler_sampler; SiT's grid of n points has n − 1).

    shift: t <- s t / (1 + (s − 1) t) of equal intervals; above 1 they are shorter near the noise
    (LightningDiT: 1 / 0.3).
    """

    asks = "velocity"

    def __init__(self, nfe: int = 50, shift: float = 1.0) -> None:
        if nfe < 1:
            raise DiffxError(
                f"sampler.nfe={nfe}: a sampler needs at least one forward; type for instance sampler.nfe=50."
            )
        if not shift > 0:
            raise DiffxError(f"sampler.shift={shift} must be positive; type sampler.shift=1 for equal intervals.")
        self.nfe, self.shift = nfe, shift

    def __call__(self, field: Field, x: Tensor, noise: Noise) -> Tensor:
        first, last = field.ends
        equal = torch.linspace(1, 0, self.nfe + 1, dtype=torch.float64)
        shifted = self.shift * equal / (1 + (self.shift - 1) * equal)
        times = (last + (first - last) * shifted).tolist()
        for t, following in pairwise(times):
            x = x + (following - t) * field.velocity(x, t)
        return x


class Heun:
    """Heun's second-order rule; no correction on the last interval, so n intervals cost nfe = 2n − 1 (REPA, EDM).

    Both forwards of an interval are guided as its beginning is (REPA): where guidance begins or ends that decides.
    """

    asks = "velocity"

    def __init__(self, nfe: int = 49) -> None:
        if nfe < 1 or nfe % 2 == 0:
            raise DiffxError(
                f"sampler.nfe={nfe}: Heun takes two forwards an interval and one in the last, an odd number; "
                f"type sampler.nfe={max(nfe, 0) + 1}."
            )
        self.nfe = nfe

    def __call__(self, field: Field, x: Tensor, noise: Noise) -> Tensor:
        intervals = (self.nfe + 1) // 2
        times = torch.linspace(*field.ends, intervals + 1, dtype=torch.float64).tolist()
        for k, (t, following) in enumerate(pairwise(times)):
            slope = field.velocity(x, t)
            guess = x + (following - t) * slope
            if k < intervals - 1:
                slope = (slope + field.velocity(guess, following, guided_as=t)) / 2
                guess = x + (following - t) * slope
            x = guess
        return x
