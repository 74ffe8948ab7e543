"""EDM's deterministic sampler (Karras et al. 2022, arXiv 2206.00364, algorithm 1)."""

from itertools import pairwise

import torch
from torch import Tensor

from diffx.errors import DiffxError
from diffx.sampler.field import Field, check_fit
from diffx.sampler.noise import Noise


class EDMHeun:
    """Heun's rule on dx/dσ = (x − D(x; σ)) / σ over (nfe + 1) / 2 noise levels and a last step to σ = 0 by Euler.

    Levels (σ_max^(1/ρ) + k/(n−1) (σ_min^(1/ρ) − σ_max^(1/ρ)))^ρ, eq. 5; the paper's numbers are the defaults, and 40
    levels (nfe 79) are TREAD's. The state x starts as standard normal and is scaled to σ_max here.
    """

    asks = "noise_levels"

    def __init__(self, nfe: int = 79, sigma_min: float = 0.002, sigma_max: float = 80.0, rho: float = 7.0) -> None:
        if nfe < 3 or nfe % 2 == 0:
            raise DiffxError(
                f"sampler.nfe={nfe}: this sampler takes two forwards a level and one at the last, an odd number from "
                f"3; type sampler.nfe={max(nfe + 1, 3)}."
            )
        if not 0 < sigma_min < sigma_max or not rho > 0:
            raise DiffxError(
                f"sampler.sigma_min={sigma_min}, sigma_max={sigma_max}, rho={rho} must be positive, the first below "
                "the second; the paper has 0.002, 80 and 7."
            )
        self.nfe, self.sigma_min, self.sigma_max, self.rho = nfe, sigma_min, sigma_max, rho

    def sigmas(self) -> list[float]:
        """The noise levels, from σ_max down to σ_min, and 0."""
        first, last = self.sigma_max ** (1 / self.rho), self.sigma_min ** (1 / self.rho)
        roots = torch.linspace(first, last, (self.nfe + 1) // 2, dtype=torch.float64)
        return [*(roots**self.rho).tolist(), 0.0]

    def __call__(self, field: Field, x: Tensor, noise: Noise) -> Tensor:
        check_fit(self, field.objective)
        sigmas = self.sigmas()
        x = x * sigmas[0]
        for sigma, following in pairwise(sigmas):
            slope = (x - field.data(x, sigma)) / sigma
            guess = x + (following - sigma) * slope
            if following > 0:
                slope = (slope + (guess - field.data(guess, following)) / following) / 2
                guess = x + (following - sigma) * slope
            x = guess
        return x
