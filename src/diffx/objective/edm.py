"""EDM (Karras et al. 2022, arXiv 2206.00364): a preconditioned denoiser trained on log-normal noise levels.

Time is the noise's standard deviation σ: x_t = x + σ ε. The network F sees c_in(σ) x_t and ln(σ) / 4.
"""

import torch
from torch import Tensor

from diffx.errors import DiffxError
from diffx.objective.times import expand_times


class EDM:
    """D(x_t; σ) = c_skip x_t + c_out F(c_in x_t; ln(σ)/4) compared to x, weighted (σ² + σ_d²) / (σ σ_d)² (Table 1).

    mean, std: of ln σ in training; −1.2 and 1.2 in the paper and in TREAD. sigma_data: standard deviation of the data.
    """

    gives = frozenset({"score", "data", "noise_levels"})
    samplers = "edm"
    ends = (0.0, 1.0)

    def __init__(self, mean: float = -1.2, std: float = 1.2, sigma_data: float = 0.5) -> None:
        for key, value in [("std", std), ("sigma_data", sigma_data)]:
            if not value > 0:
                raise DiffxError(f"objective.{key}={value} must be positive; type for instance objective.{key}=0.5.")
        self.mean, self.std, self.sigma_data = mean, std, sigma_data

    def times(self, count: int, rng: torch.Generator) -> Tensor:
        """Noise levels (count,) drawn for training."""
        return (self.mean + self.std * torch.randn(count, generator=rng, device=rng.device)).exp()

    def noised(self, x: Tensor, noise: Tensor, t: Tensor) -> Tensor:
        """x + σ ε (B, C, H, W) at noise levels t (B,)."""
        return x + expand_times(t, x) * noise

    def inputs(self, x_t: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        """c_in x_t, of unit variance, and c_noise = ln(σ) / 4."""
        return x_t * (expand_times(t, x_t).square() + self.sigma_data**2).rsqrt(), t.log() / 4

    def target(self, x: Tensor, noise: Tensor, t: Tensor) -> Tensor:
        """The effective target of F (B, C, H, W): (x − c_skip x_t) / c_out (eq. 8)."""
        sigma = expand_times(t, x)
        total = sigma.square() + self.sigma_data**2
        skip, scale = self.sigma_data**2 / total, sigma * self.sigma_data * total.rsqrt()
        return (x - skip * self.noised(x, noise, t)) / scale

    def errors(self, out: Tensor, x: Tensor, noise: Tensor, t: Tensor) -> Tensor:
        """Weighted squared errors of the denoised data (B, C, H, W)."""
        error = self.data(out, self.noised(x, noise, t), t) - x
        return self.weight(expand_times(t, x)) * error.square()

    def loss(self, out: Tensor, x: Tensor, noise: Tensor, t: Tensor) -> Tensor:
        """Weighted mean squared error of the denoised data per sample (B,)."""
        error = self.data(out, self.noised(x, noise, t), t) - x
        return self.weight(t) * error.square().flatten(1).mean(1)

    def weight(self, t: Tensor) -> Tensor:
        """λ(σ), under which the effective target F has unit variance at every noise level."""
        return (t.square() + self.sigma_data**2) / (t * self.sigma_data).square()

    def data(self, out: Tensor, x_t: Tensor, t: Tensor) -> Tensor:
        """The denoised D(x_t; σ) (B, C, H, W)."""
        sigma = expand_times(t, x_t)
        total = sigma.square() + self.sigma_data**2
        skip, scale = self.sigma_data**2 / total, sigma * self.sigma_data * total.rsqrt()
        return skip * x_t + scale * out[:, : x_t.shape[1]]

    def velocity(self, out: Tensor, x_t: Tensor, t: Tensor) -> Tensor:
        """Refused: these samplers step through times in [0, 1]."""
        raise DiffxError("objective=edm runs over noise levels, not times in [0, 1]; type sampler=edm.")

    def score(self, out: Tensor, x_t: Tensor, t: Tensor) -> Tensor:
        """∇ log p (B, C, H, W) at noise levels t, which is (D − x_t) / σ²."""
        return (self.data(out, x_t, t) - x_t) / expand_times(t, x_t).square()

    def position(self, t: float) -> float:
        """The time on the linear path that has the same ratio of noise to data."""
        return t / (1 + t)

    def sigma(self, t: float) -> float:
        return t
