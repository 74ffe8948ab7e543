"""Stochastic interpolants (SiT, Ma et al. 2024, arXiv 2401.08740): a path from data to noise and what is learned on it.

Time runs from data (t = 0) to noise (t = 1): x_t = α(t) x + σ(t) ε. SiT's code runs it the other way.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from diffx.errors import DiffxError
from diffx.objective.times import expand_times

PREDICTIONS = ("velocity", "noise", "score", "data")
TIMES = ("uniform", "lognormal")
VP_BETA_MIN, VP_BETA_MAX = 0.1, 20.0


@dataclass(frozen=True)
class Path:
    """α and σ and their derivatives in t, and the interval of times that training draws from.

    Predicting noise, score or data divides by σ or α somewhere, so such training stays 1e-3 away from the ends (SiT).
    """

    alpha: Callable[[Tensor], Tensor]
    sigma: Callable[[Tensor], Tensor]
    d_alpha: Callable[[Tensor], Tensor]
    d_sigma: Callable[[Tensor], Tensor]


def _vp_log_alpha(t: Tensor) -> Tensor:
    return -0.25 * t**2 * (VP_BETA_MAX - VP_BETA_MIN) - 0.5 * t * VP_BETA_MIN


def _vp_d_alpha(t: Tensor) -> Tensor:
    beta = VP_BETA_MIN + t * (VP_BETA_MAX - VP_BETA_MIN)
    return -0.5 * beta * _vp_log_alpha(t).exp()


def _vp_sigma(t: Tensor) -> Tensor:
    return (-torch.expm1(2 * _vp_log_alpha(t))).sqrt()


PATHS = {
    "linear": Path(lambda t: 1 - t, lambda t: t, lambda t: -torch.ones_like(t), torch.ones_like),
    "cosine": Path(
        lambda t: torch.cos(t * math.pi / 2),
        lambda t: torch.sin(t * math.pi / 2),
        lambda t: -math.pi / 2 * torch.sin(t * math.pi / 2),
        lambda t: math.pi / 2 * torch.cos(t * math.pi / 2),
    ),
    "vp": Path(
        lambda t: _vp_log_alpha(t).exp(),
        _vp_sigma,
        _vp_d_alpha,
        lambda t: -_vp_log_alpha(t).exp() * _vp_d_alpha(t) / _vp_sigma(t),
    ),
}


class Interpolant:
    """The objective that owns the times, the path, the target and the loss, and hands samplers a velocity and a score.

    path: "linear" | "cosine" (SiT's GVP) | "vp" (β from 0.1 to 20). prediction: what the network outputs, "velocity"
    (σ' ε + α' x; noise − data on the linear path), "noise", "score" (the network's output times σ is compared to −ε) or
    "data". times: "uniform", or "lognormal" (σ/α log-normal(0, 1), as REPA's option). shift: t <- s t / (1 + (s-1) t).
    """

    gives = frozenset({"velocity", "score", "data"})
    samplers = "euler, heun, dopri5 or sde"

    def __init__(
        self, path: str = "linear", prediction: str = "velocity", times: str = "uniform", shift: float = 1.0
    ) -> None:
        for key, value, choices in [
            ("path", path, tuple(PATHS)),
            ("prediction", prediction, PREDICTIONS),
            ("times", times, TIMES),
        ]:
            if value not in choices:
                raise DiffxError(f"objective.{key}={value} is not known; type objective.{key}= one of {choices}.")
        if not shift > 0:
            raise DiffxError(f"objective.shift={shift} must be positive; type objective.shift=1 for none.")
        self.path_name, self.prediction, self.time_law, self.shift = path, prediction, times, shift
        # Where velocity is finite at both ends (linear, cosine) all of [0, 1] is drawn; otherwise SiT's margins.
        if path == "vp":
            self.ends = (1e-5, 1.0)
        else:
            self.ends = (0.0, 1.0) if prediction == "velocity" else (1e-3, 1 - 1e-3)

    @property
    def path(self) -> Path:
        return PATHS[self.path_name]  # not an attribute: its functions have no name that a pickle could hold

    def times(self, count: int, rng: torch.Generator) -> Tensor:
        """Times (count,) drawn for training."""
        if self.time_law == "lognormal":
            ratio = torch.randn(count, generator=rng, device=rng.device).exp()
            t = ratio / (1 + ratio) if self.path_name != "cosine" else torch.atan(ratio) * 2 / math.pi
        else:
            t = torch.rand(count, generator=rng, device=rng.device)
        t = self.shift * t / (1 + (self.shift - 1) * t)
        low, high = self.ends
        return low + (high - low) * t

    def noised(self, x: Tensor, noise: Tensor, t: Tensor) -> Tensor:
        """x_t (B, C, H, W) at times t (B,)."""
        t = expand_times(t, x)
        return self.path.alpha(t) * x + self.path.sigma(t) * noise

    def inputs(self, x_t: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        """The network is fed the state and the time as they are."""
        return x_t, t

    def target(self, x: Tensor, noise: Tensor, t: Tensor) -> Tensor:
        """What the network's output is compared with (B, C, H, W); for the score, −ε / σ."""
        t = expand_times(t, x)
        if self.prediction == "velocity":
            return self.path.d_alpha(t) * x + self.path.d_sigma(t) * noise
        if self.prediction == "score":
            return -noise / self.path.sigma(t)
        return noise if self.prediction == "noise" else x

    def errors(self, out: Tensor, x: Tensor, noise: Tensor, t: Tensor) -> Tensor:
        """Squared errors (B, C, H, W). A learned-sigma backbone's second half of channels is ignored (SiT)."""
        out = out[:, : x.shape[1]]
        if self.prediction == "score":
            return (out * self.path.sigma(expand_times(t, x)) + noise).square()
        return (out - self.target(x, noise, t)).square()

    def loss(self, out: Tensor, x: Tensor, noise: Tensor, t: Tensor) -> Tensor:
        """Mean squared error per sample (B,)."""
        return self.errors(out, x, noise, t).flatten(1).mean(1)

    def velocity(self, out: Tensor, x_t: Tensor, t: Tensor) -> Tensor:
        """The probability-flow velocity dx/dt (B, C, H, W) that the network's output stands for."""
        if self.prediction == "velocity":
            return out[:, : x_t.shape[1]]
        x, noise = self._data_and_noise(out, x_t, t)
        t = expand_times(t, x_t)
        return self.path.d_alpha(t) * x + self.path.d_sigma(t) * noise

    def score(self, out: Tensor, x_t: Tensor, t: Tensor) -> Tensor:
        """∇ log p_t (B, C, H, W), which is −E[ε | x_t] / σ."""
        _, noise = self._data_and_noise(out, x_t, t)
        return -noise / self.path.sigma(expand_times(t, x_t))

    def data(self, out: Tensor, x_t: Tensor, t: Tensor) -> Tensor:
        """The clean x (B, C, H, W) that the network's output stands for."""
        return self._data_and_noise(out, x_t, t)[0]

    def position(self, t: float) -> float:
        return t

    def sigma(self, t: float) -> float:
        return self.path.sigma(torch.tensor(t, dtype=torch.float64)).item()

    def _data_and_noise(self, out: Tensor, x_t: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        """Solve x_t = α x + σ ε together with what the output says about x and ε."""
        out, t = out[:, : x_t.shape[1]], expand_times(t, x_t)
        alpha, sigma = self.path.alpha(t), self.path.sigma(t)
        if self.prediction == "velocity":
            d_alpha, d_sigma = self.path.d_alpha(t), self.path.d_sigma(t)
            determinant = alpha * d_sigma - sigma * d_alpha
            return (d_sigma * x_t - sigma * out) / determinant, (alpha * out - d_alpha * x_t) / determinant
        if self.prediction == "data":
            return out, (x_t - alpha * out) / sigma
        noise = out if self.prediction == "noise" else -sigma * out
        return (x_t - sigma * noise) / alpha, noise
