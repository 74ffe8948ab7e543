"""The field that samplers integrate: a network seen through its objective, guided, with its forwards counted."""

import torch
from torch import Tensor

from diffx.errors import DiffxError
from diffx.objective import Objective
from diffx.sampler.guidance import AnyGuidance, Guidance, Network


class Field:
    """Velocity, score or clean data at (x, t), from one guided forward of the network. t is the objective's own time.

    States are float64 as in REPA's samplers; the network sees float32. nfe counts forwards (a guided one, which runs
    the network on twice the batch, counts once: the interval and scale stand in the protocol).
    """

    def __init__(
        self, network: Network, objective: Objective, y: Tensor, null_label: int, guidance: AnyGuidance | None = None
    ) -> None:
        self.network, self.objective, self.y, self.null_label = network, objective, y, null_label
        self.guidance = guidance or Guidance()
        self.nfe = 0

    @property
    def ends(self) -> tuple[float, float]:
        """The times that integration goes from and to: 1 and 0, but for predictions that divide by α or σ, which are
        not defined there and stay SiT's margin away."""
        return getattr(self.objective, "high", 1.0), getattr(self.objective, "low", 0.0)

    def velocity(self, x: Tensor, t: float) -> Tensor:
        """The probability-flow velocity dx/dt (B, C, H, W), float64."""
        return self.objective.velocity(self.output(x, t), x, self._times(x, t))

    def velocity_and_score(self, x: Tensor, t: float) -> tuple[Tensor, Tensor]:
        """Both from a single forward."""
        out, times = self.output(x, t), self._times(x, t)
        return self.objective.velocity(out, x, times), self.objective.score(out, x, times)

    def data(self, x: Tensor, t: float) -> Tensor:
        """The clean data (B, C, H, W) that the network expects behind x, float64."""
        return self.objective.data(self.output(x, t), x, self._times(x, t))

    def output(self, x: Tensor, t: float) -> Tensor:
        """The network's own guided output (B, C or 2C, H, W), float64."""
        self.nfe += 1
        x_in, times = self.objective.inputs(x, self._times(x, t))
        position = self.objective.position(t)
        return self.guidance(self.network, x_in.float(), times[0], self.y, self.null_label, position).double()

    @staticmethod
    def _times(x: Tensor, t: float) -> Tensor:
        return torch.full((len(x),), t, dtype=x.dtype, device=x.device)


def check_fit(sampler: object, objective: Objective) -> None:
    """Refuse a sampler that steps through the times of another objective, which it names in its attribute `objective`;
    one without that attribute fits all.

    Raises:
        DiffxError: says which sampler to type.
    """
    wanted = getattr(sampler, "objective", objective.name)
    if objective.name != wanted:
        right = {"ddpm": "ancestral", "edm": "edm"}.get(objective.name, "euler, heun, dopri5 or sde")
        raise DiffxError(
            f"{type(sampler).__name__} steps through the times of an {wanted} objective, and this one is "
            f"{objective.name}; type sampler={right}."
        )
