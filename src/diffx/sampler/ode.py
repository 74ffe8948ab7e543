"""Deterministic samplers: the probability-flow ODE from noise (t = 1) to data (t = 0)."""

from itertools import pairwise

import torch
from torch import Tensor

from diffx.errors import DiffxError
from diffx.sampler.field import Field
from diffx.sampler.noise import Noise


def time_grid(field: Field, intervals: int, shift: float) -> list[float]:
    """Times from noise to data, in equal intervals; or with the times shifted as the objective's `shift` does."""
    return shifted(torch.linspace(*field.ends, intervals + 1, dtype=torch.float64), field, shift).tolist()


def shifted(times: Tensor, field: Field, shift: float) -> Tensor:
    """Times between those of noise and data by t <- s t / (1 + (s − 1) t), where both ends stay."""
    if shift == 1:
        return times
    noise, data = field.ends
    share = (times - data) / (noise - data)
    return data + (noise - data) * shift * share / (1 + (shift - 1) * share)


def check_shift(shift: float) -> None:
    """Raises DiffxError for a shift that is no positive number."""
    if not shift > 0:
        raise DiffxError(f"sampler.shift={shift} must be positive; type sampler.shift=1 for equal intervals.")


class Euler:
    """Euler on `nfe` intervals, so `nfe` forwards (REPA's euler_sampler; SiT's grid of n points has n − 1).

    shift: t <- s t / (1 + (s − 1) t) of equal intervals; above 1 they are shorter near the noise
    (LightningDiT: 1 / 0.3; RAE: the one that it trains with).
    """

    asks = "velocity"

    def __init__(self, nfe: int = 50, shift: float = 1.0) -> None:
        check_shift(shift)
        if nfe < 1:
            raise DiffxError(
                f"sampler.nfe={nfe}: a sampler needs at least one forward; type for instance sampler.nfe=50."
            )
        self.nfe, self.shift = nfe, shift

    def __call__(self, field: Field, x: Tensor, noise: Noise) -> Tensor:
        for t, following in pairwise(time_grid(field, self.nfe, self.shift)):
            x = x + (following - t) * field.velocity(x, t)
        return x


class Heun:
    """Heun's second-order rule; no correction on the last interval, so n intervals cost nfe = 2n − 1 (REPA, EDM).

    Both forwards of an interval are guided as its beginning is (REPA): where guidance begins or ends that decides.
    shift: as Euler's.
    """

    asks = "velocity"

    def __init__(self, nfe: int = 49, shift: float = 1.0) -> None:
        check_shift(shift)
        if nfe < 1 or nfe % 2 == 0:
            raise DiffxError(
                f"sampler.nfe={nfe}: Heun takes two forwards an interval and one in the last, an odd number; "
                f"type sampler.nfe={max(nfe, 0) + 1}."
            )
        self.nfe, self.shift = nfe, shift

    def __call__(self, field: Field, x: Tensor, noise: Noise) -> Tensor:
        intervals = (self.nfe + 1) // 2
        for k, (t, following) in enumerate(pairwise(time_grid(field, intervals, self.shift))):
            slope = field.velocity(x, t)
            guess = x + (following - t) * slope
            if k < intervals - 1:
                slope = (slope + field.velocity(guess, following, guided_as=t)) / 2
                guess = x + (following - t) * slope
            x = guess
        return x
