"""Stochastic interpolants (SiT, Ma et al. 2024, arXiv 2401.08740): a path from data to noise and what is learned on it.

Time runs from data (t = 0) to noise (t = 1): x_t = α(t) x + σ(t) ε. SiT's code runs it the other way.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from diffx.errors import DiffxError
from diffx.objective.times import expand_times

PREDICTIONS = ("velocity", "noise", "score", "data")
TIMES = ("uniform", "lognormal")
ERRORS = ("output", "velocity")
VP_BETA_MIN, VP_BETA_MAX = 0.1, 20.0


@dataclass(frozen=True)
class Path:
    """α and σ and their derivatives in t."""

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
    "data". times: "uniform", or "lognormal" (σ/α log-normal, as REPA's option), of which `mean` and `std` are those of
    ln σ/α and `truncate` the interval of t that is drawn from. shift: then t <- s t / (1 + (s-1) t).

    error: taken on the "output", or on the "velocity" that it stands for, as JiT (Li & He 2025, arXiv 2511.13720) and
    RAEv2 (arXiv 2605.18324) do: with data predicted on the linear path, (x_t − out) / t against (x_t − x) / t. floor:
    what velocities divide by is at least this, t there; α for noise and score; both papers have 0.05. min_snr: γ of
    min-SNR (Hang et al. 2023, arXiv 2303.09556), which weighs the error of the data that the output stands for by
    min(α²/σ², γ), whatever is predicted; None for none.
    """

    gives = frozenset({"velocity", "score", "data"})
    samplers = "euler, heun, dopri5 or sde"

    def __init__(
        self,
        path: str = "linear",
        prediction: str = "velocity",
        times: str = "uniform",
        shift: float = 1.0,
        mean: float = 0.0,
        std: float = 1.0,
        truncate: Sequence[float] | None = None,
        error: str = "output",
        floor: float = 0.0,
        min_snr: float | None = None,
    ) -> None:
        for key, value, choices in [
            ("path", path, tuple(PATHS)),
            ("prediction", prediction, PREDICTIONS),
            ("times", times, TIMES),
            ("error", error, ERRORS),
        ]:
            if value not in choices:
                raise DiffxError(f"objective.{key}={value} is not known; type objective.{key}= one of {choices}.")
        _check_numbers(times, shift, mean, std, truncate, floor, min_snr)
        self.path_name, self.prediction, self.time_law, self.shift = path, prediction, times, shift
        self.mean, self.std, self.truncate = mean, std, None if truncate is None else tuple(truncate)
        self.error, self.floor, self.min_snr = error, floor, min_snr
        # All of [0, 1] is drawn where velocity is finite at both ends (on the linear and the cosine path, predicted or
        # divided by a floor); otherwise SiT's margins.
        if path == "vp":
            self.ends = (1e-5, 1.0)
        else:
            self.ends = (0.0, 1.0) if prediction == "velocity" or floor > 0 else (1e-3, 1 - 1e-3)

    @property
    def path(self) -> Path:
        return PATHS[self.path_name]  # not an attribute: its functions have no name that a pickle could hold

    def times(self, count: int, rng: torch.Generator) -> Tensor:
        """Times (count,) drawn for training."""
        if self.time_law == "lognormal":
            ratio = (self.mean + self.std * self._normal(count, rng)).exp()
            t = ratio / (1 + ratio) if self.path_name != "cosine" else torch.atan(ratio) * 2 / math.pi
        else:
            t = torch.rand(count, generator=rng, device=rng.device)
        t = self.shift * t / (1 + (self.shift - 1) * t)
        low, high = self.ends
        return low + (high - low) * t

    def _normal(self, count: int, rng: torch.Generator) -> Tensor:
        """Standard normal draws (count,), of those alone whose times lie inside `truncate`."""
        if self.truncate is None:
            return torch.randn(count, generator=rng, device=rng.device)
        low, high = (_normal_cdf((_log_ratio(self.path_name, t) - self.mean) / self.std) for t in self.truncate)
        share = torch.rand(count, generator=rng, device=rng.device, dtype=torch.float64)
        return torch.special.ndtri(low + (high - low) * share).float()

    def noised(self, x: Tensor, noise: Tensor, t: Tensor) -> Tensor:
        """x_t (B, C, H, W) at times t (B,)."""
        t = expand_times(t, x)
        return self.path.alpha(t) * x + self.path.sigma(t) * noise

    def inputs(self, x_t: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        """The network is fed the state and the time as they are."""
        return x_t, t

    def target(self, x: Tensor, noise: Tensor, t: Tensor) -> Tensor:
        """What the network's output stands for (B, C, H, W); for the score, −ε / σ."""
        t = expand_times(t, x)
        if self.prediction == "velocity":
            return self.path.d_alpha(t) * x + self.path.d_sigma(t) * noise
        if self.prediction == "score":
            return -noise / self.path.sigma(t)
        return noise if self.prediction == "noise" else x

    def errors(self, out: Tensor, x: Tensor, noise: Tensor, t: Tensor) -> Tensor:
        """Weighted squared errors (B, C, H, W). The second half of a learned-sigma output is ignored (SiT)."""
        out = out[:, : x.shape[1]]
        if self.prediction == "score":
            gap = out * self.path.sigma(expand_times(t, x)) + noise
        else:
            gap = out - self.target(x, noise, t)
        if self.error == "velocity":
            gap = gap * self._slope(expand_times(t, x))
        error = gap.square()
        return error if self.min_snr is None else error * self._snr_weight(self.min_snr, expand_times(t, x))

    def loss(self, out: Tensor, x: Tensor, noise: Tensor, t: Tensor) -> Tensor:
        """Mean squared error per sample (B,)."""
        return self.errors(out, x, noise, t).flatten(1).mean(1)

    def _slope(self, t: Tensor) -> Tensor | float:
        """How far the velocity moves when the data, or the noise, that an output stands for moves by one."""
        if self.prediction == "velocity":
            return 1.0
        divisor = self.path.sigma(t) if self.prediction == "data" else self.path.alpha(t)
        return self._determinant(t) / divisor.clamp(min=self.floor)

    def _snr_weight(self, gamma: float, t: Tensor) -> Tensor:
        """min(SNR, γ) times the squared error of the data for an error of one, in what the loss is about."""
        alpha2, sigma2 = self.path.alpha(t).square(), self.path.sigma(t).square()
        if self.prediction == "velocity" or self.error == "velocity":
            return torch.minimum(alpha2, gamma * sigma2) / self._determinant(t).square()
        if self.prediction == "data":
            return (alpha2 / sigma2).clamp(max=gamma)
        return (gamma * sigma2 / alpha2).clamp(max=1)

    def velocity(self, out: Tensor, x_t: Tensor, t: Tensor) -> Tensor:
        """The probability-flow velocity dx/dt (B, C, H, W) that the network's output stands for."""
        out = out[:, : x_t.shape[1]]
        if self.prediction == "velocity":
            return out
        t = expand_times(t, x_t)
        if self.prediction == "data":
            divisor = self.path.sigma(t).clamp(min=self.floor)
            return (self.path.d_sigma(t) * x_t - self._determinant(t) * out) / divisor
        noise = out if self.prediction == "noise" else -self.path.sigma(t) * out
        divisor = self.path.alpha(t).clamp(min=self.floor)
        return (self.path.d_alpha(t) * x_t + self._determinant(t) * noise) / divisor

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

    def _determinant(self, t: Tensor) -> Tensor:
        """α σ' − σ α', of the two equations that say what x_t and its velocity are made of."""
        path = self.path
        return path.alpha(t) * path.d_sigma(t) - path.sigma(t) * path.d_alpha(t)

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


def _log_ratio(path: str, t: float) -> float:
    """ln σ/α that "lognormal" gives a time on the linear and the cosine path; on VP that of the linear one."""
    if t in (0, 1):
        return -math.inf if t == 0 else math.inf
    return math.log(t / (1 - t)) if path != "cosine" else math.log(math.tan(math.pi * t / 2))


def _normal_cdf(z: float) -> float:
    return (1 + math.erf(z / math.sqrt(2))) / 2


def _check_numbers(
    times: str,
    shift: float,
    mean: float,
    std: float,
    truncate: Sequence[float] | None,
    floor: float,
    min_snr: float | None,
) -> None:
    """Raises DiffxError for a number that cannot be, or that nothing would look at."""
    if not shift > 0:
        raise DiffxError(f"objective.shift={shift} must be positive; type objective.shift=1 for none.")
    if not std > 0:
        raise DiffxError(f"objective.std={std} must be positive; type objective.std=1.")
    if truncate is not None and (len(truncate) != 2 or not 0 <= truncate[0] < truncate[1] <= 1):
        raise DiffxError(
            f"objective.truncate={list(truncate)} is no interval of times inside [0, 1]; type for instance "
            "objective.truncate=[0.001,0.999], or null."
        )
    for key, value, unused in (("mean", mean, 0), ("std", std, 1), ("truncate", truncate, None)):
        if times == "uniform" and value != unused:
            raise DiffxError(
                f"objective.{key}={value} is of log-normal times, and objective.times=uniform; type "
                "objective.times=lognormal."
            )
    if not 0 <= floor < 1:
        raise DiffxError(f"objective.floor={floor} must lie in [0, 1); type objective.floor=0.05, or 0 for none.")
    if min_snr is not None and not min_snr > 0:
        raise DiffxError(f"objective.min_snr={min_snr} must be positive; type 5, or null for no weight.")
