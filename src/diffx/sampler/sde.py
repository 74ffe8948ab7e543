"""The stochastic sampler of SiT and REPA: Euler–Maruyama on the reverse SDE with a last deterministic step."""

import math
from itertools import pairwise

import torch
from torch import Tensor

from diffx.errors import DiffxError
from diffx.sampler.field import Field
from diffx.sampler.noise import Noise


class EulerMaruyama:
    """dx = (v − w(t) s) dt + sqrt(2 w(t)) dW, run from t = 1 to 0, one forward a step.

    nfe − 1 noisy steps go from 1 to `last_step` and one noiseless step of that size ends at 0 (SiT's last step "Mean").
    w(t) = t, which is σ of the linear path, on every path, as REPA's sampler has it (SiT's diffusion form "sigma").
    """

    def __init__(self, nfe: int = 250, last_step: float = 0.04) -> None:
        if nfe < 2:
            raise DiffxError(f"sampler.nfe={nfe}: this sampler needs at least 2 forwards; type sampler.nfe=250.")
        if not 0 < last_step < 1:
            raise DiffxError(f"sampler.last_step={last_step} must lie between 0 and 1; type sampler.last_step=0.04.")
        self.nfe, self.last_step = nfe, last_step

    def __call__(self, field: Field, x: Tensor, noise: Noise) -> Tensor:
        times = [*torch.linspace(1, self.last_step, self.nfe, dtype=torch.float64).tolist(), 0.0]
        for k, (t, following) in enumerate(pairwise(times)):
            velocity, score = field.velocity_and_score(x, t)
            mean = x + (following - t) * (velocity - t * score)
            last = k == self.nfe - 1
            x = mean if last else mean + math.sqrt(2 * t * (t - following)) * noise(x)
        return x
