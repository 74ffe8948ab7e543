"""The stochastic sampler of SiT and REPA: Euler–Maruyama on the reverse SDE with a last deterministic step."""

import math
from itertools import pairwise

import torch
from torch import Tensor

from diffx.errors import DiffxError
from diffx.sampler.field import Field
from diffx.sampler.noise import Noise
from diffx.sampler.ode import check_shift, shifted

DIFFUSIONS = ("linear", "sigma")


class EulerMaruyama:
    """dx = (v − w(t) s) dt + sqrt(2 w(t)) dW, run from t = 1 to 0, one forward a step.

    nfe − 1 noisy steps go from 1 to `last_step` and one noiseless step of that size ends at 0 (SiT's last step "Mean").
    diffusion: "linear", w(t) = t on every path, as REPA's sampler has it, or "sigma", w(t) = σ(t) of the path (SiT's
    default form). On the linear path they are the same. shift: the times of all forwards, `last_step` too, are shifted
    as Euler's (SR-DiT).
    """

    asks = "velocity"

    def __init__(self, nfe: int = 250, last_step: float = 0.04, diffusion: str = "linear", shift: float = 1.0) -> None:
        check_shift(shift)
        if nfe < 2:
            raise DiffxError(f"sampler.nfe={nfe}: this sampler needs at least 2 forwards; type sampler.nfe=250.")
        if not 0 < last_step < 1:
            raise DiffxError(f"sampler.last_step={last_step} must lie between 0 and 1; type sampler.last_step=0.04.")
        if diffusion not in DIFFUSIONS:
            raise DiffxError(
                f"sampler.diffusion={diffusion} is not known; type sampler.diffusion= one of {', '.join(DIFFUSIONS)}."
            )
        self.nfe, self.last_step, self.diffusion, self.shift = nfe, last_step, diffusion, shift

    def __call__(self, field: Field, x: Tensor, noise: Noise) -> Tensor:
        even = torch.linspace(field.ends[0], self.last_step, self.nfe, dtype=torch.float64)
        times = [*shifted(even, field, self.shift).tolist(), 0.0]
        for k, (t, following) in enumerate(pairwise(times)):
            velocity, score = field.velocity_and_score(x, t)
            diffusion = t if self.diffusion == "linear" else field.objective.sigma(t)
            mean = x + (following - t) * (velocity - diffusion * score)
            last = k == self.nfe - 1
            x = mean if last else mean + math.sqrt(2 * diffusion * (t - following)) * noise(x)
        return x
