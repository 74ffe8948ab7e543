"""MeanFlow (Geng et al. 2025, arXiv 2505.13447): the average velocity of a stretch of the path, for samples in one
forward or two. A method for fewer steps at sampling; a step of its training costs more than a plain one.

Time runs from data (t = 0) to noise (t = 1), as the paper's. The average u of [r, t] is (t − r) u = ∫ v dτ; its
derivative along the path is u = v − (t − r) du/dt, of which the right side, made with the network itself and without
a gradient, is what u is pulled to.
"""

from collections.abc import Callable
from typing import Any, NoReturn

import torch
from torch import Tensor
from torch.func import jvp
from torch.nn.attention import SDPBackend, sdpa_kernel

from diffx.errors import DiffxError
from diffx.objective.interpolant import Interpolant
from diffx.objective.times import expand_times

Network = Callable[[Tensor, Tensor, Any], Tensor]


class MeanFlow:
    """Average velocities on the linear path. The network is fed t and r, or t alone for the velocity at t.

    mean, std: of the two logits of which the later time is t and the earlier r. instant: share of samples with r = t,
    which learn the velocity itself. power, floor: each sample's summed squared error is divided by
    (error + floor)^power, without a gradient.

    omega, kappa: guidance inside the target, for samples with t in [low, high] whose label
    was not dropped: v becomes ω v + κ u(x_t, t, t | y) + (1 − ω − κ) u(x_t, t, t), the field guided at ω / (1 − κ),
    which a sampler then needs not guide. 1 and 0 for none.

    Recorded is zhuyu-cs/MeanFlow, in PyTorch; the authors' own code is JAX. That code squares the summed error once
    more before it divides, which doubles the gradient, and has r = t for a quarter of the samples where the paper's
    best has three quarters. As there, samples whose label was dropped learn the unguided v.
    """

    gives = frozenset({"average_velocity", "velocity", "score", "data"})
    samplers = "meanflow, euler, heun, dopri5 or sde"

    def __init__(
        self,
        mean: float = -0.4,
        std: float = 1.0,
        instant: float = 0.75,
        omega: float = 1.0,
        kappa: float = 0.0,
        low: float = 0.0,
        high: float = 1.0,
        power: float = 1.0,
        floor: float = 1e-3,
    ) -> None:
        self._path = Interpolant(times="lognormal", mean=mean, std=std)
        self.ends = self._path.ends
        for key, value in (("instant", instant), ("low", low), ("high", high), ("kappa", kappa)):
            if not 0 <= value <= 1:
                raise DiffxError(f"objective.{key}={value} must lie in [0, 1]; type another number.")
        if low > high or kappa == 1:
            raise DiffxError(
                f"objective.low={low}, high={high}, kappa={kappa}: guidance needs low <= high and kappa below 1; the "
                "paper has 0, 0.75 and 0.92."
            )
        if not (omega > 0 and power >= 0 and floor > 0):
            raise DiffxError(
                f"objective.omega={omega}, power={power}, floor={floor} must be positive (power may be 0); type 1, 1 "
                "and 1e-3."
            )
        self.instant, self.omega, self.kappa, self.low, self.high = instant, omega, kappa, low, high
        self.power, self.floor = power, floor

    def check_backbone(self, backbone: Any) -> None:
        """Raises DiffxError for a backbone that is fed one time."""
        if not backbone.two_times:
            raise DiffxError(
                f"objective=meanflow asks for averages between two times, and {type(backbone).__name__} is fed one; "
                "type +backbone.two_times=true, with a DiT and without plugins that bring a backbone."
            )

    # What a step asks of it (diffx.objective.Averaging).

    def intervals(self, count: int, rng: torch.Generator) -> tuple[Tensor, Tensor]:
        """t (count,) and r (count,), r <= t."""
        one, other = self.times(count, rng), self.times(count, rng)
        t, r = torch.maximum(one, other), torch.minimum(one, other)
        instant = torch.rand(count, generator=rng, device=rng.device) < self.instant
        return t, torch.where(instant, t, r)

    @torch.no_grad()
    def average(
        self, network: Network, x: Tensor, noise: Tensor, t: Tensor, r: Tensor, y: Tensor, null: Tensor
    ) -> Tensor:
        """What u(x_t, r, t | y) is pulled to (B, C, H, W), from one forward-mode pass of the network, and two more
        forwards where it is guided."""
        # Neither attention's one-pass kernels nor compiled blocks have a forward-mode derivative.
        with sdpa_kernel(SDPBackend.MATH), torch.compiler.set_stance("force_eager"):
            x_t = self.noised(x, noise, t)
            velocity = self._guided(network, x_t, noise - x, t, y, null)

            def along(x_t: Tensor, t: Tensor, r: Tensor) -> Tensor:
                return network(x_t, torch.stack([t, r], dim=1), y)

            slope = jvp(along, (x_t, t, r), (velocity, torch.ones_like(t), torch.zeros_like(r)))[1]
            return velocity - expand_times(t - r, x) * slope

    def _guided(self, network: Network, x_t: Tensor, velocity: Tensor, t: Tensor, y: Tensor, null: Tensor) -> Tensor:
        """The velocity (B, C, H, W) along which du/dt is taken and that u has at r = t."""
        if self.omega == 1 and self.kappa == 0:
            return velocity
        with_label, without = network(x_t, t, y), network(x_t, t, null)
        guided = self.omega * velocity + self.kappa * with_label + (1 - self.omega - self.kappa) * without
        acts = (t >= self.low) & (t <= self.high) & (y != null)
        return torch.where(expand_times(acts, x_t), guided, velocity)

    def deviation(self, out: Tensor, average: Tensor) -> Tensor:
        """The loss of each sample (B,), between 0 and 1 where power = 1."""
        error = squared_error(out, average)
        return error / (error.detach() + self.floor) ** self.power

    # What all objectives have. A network that is fed t alone gives velocities.

    def times(self, count: int, rng: torch.Generator) -> Tensor:
        return self._path.times(count, rng)

    def noised(self, x: Tensor, noise: Tensor, t: Tensor) -> Tensor:
        return self._path.noised(x, noise, t)

    def inputs(self, x_t: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        return x_t, t

    def target(self, x: Tensor, noise: Tensor, t: Tensor) -> NoReturn:
        """Refused, as errors and loss are: the target is the network's own."""
        raise DiffxError(
            "objective=meanflow has no target or error but that which it makes with the network; leave out the plugin, "
            "or the guidance, that asks for one."
        )

    def errors(self, out: Tensor, x: Tensor, noise: Tensor, t: Tensor) -> NoReturn:
        self.target(x, noise, t)

    def loss(self, out: Tensor, x: Tensor, noise: Tensor, t: Tensor) -> NoReturn:
        self.target(x, noise, t)

    def velocity(self, out: Tensor, x_t: Tensor, t: Tensor) -> Tensor:
        return self._path.velocity(out, x_t, t)

    def score(self, out: Tensor, x_t: Tensor, t: Tensor) -> Tensor:
        return self._path.score(out, x_t, t)

    def data(self, out: Tensor, x_t: Tensor, t: Tensor) -> Tensor:
        return self._path.data(out, x_t, t)

    def position(self, t: float) -> float:
        return t

    def sigma(self, t: float) -> float:
        return t


def squared_error(out: Tensor, average: Tensor) -> Tensor:
    """Summed over each sample (B,)."""
    return (out - average).square().flatten(1).sum(1)
