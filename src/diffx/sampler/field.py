"""The field that samplers integrate: a network seen through its objective, guided, with its forwards counted."""

import torch
from torch import Tensor

from diffx.backbone.protocol import Condition
from diffx.errors import DiffxError
from diffx.objective import Objective
from diffx.sampler.guidance import AnyGuidance, Guidance, Network

STEPS = {
    "velocity": "times in [0, 1]",
    "average_velocity": "averages between two times",
    "noise_levels": "noise levels",
    "chain": "the steps of a chain",
}


class Field:
    """Velocity, score or clean data at (x, t), from one guided forward of the network. t is the objective's own time.

    States are float64 as in REPA's samplers; the network sees float32. nfe counts forwards (a guided one, which runs
    the network on twice the batch, counts once: the interval and scale stand in the protocol). y, null: the condition
    of the samples, and what stands for none.
    """

    def __init__(
        self, network: Network, objective: Objective, y: Condition, null: Condition, guidance: AnyGuidance | None = None
    ) -> None:
        self.network, self.objective, self.y, self.null = network, objective, y, null
        self.guidance = guidance or Guidance()
        self.nfe = 0

    @property
    def ends(self) -> tuple[float, float]:
        """The times that integration goes from, at the noise, and to, at the data."""
        data, noise = self.objective.ends
        return noise, data

    def velocity(self, x: Tensor, t: float, guided_as: float | None = None) -> Tensor:
        """The probability-flow velocity dx/dt (B, C, H, W), float64. guided_as: the time whose guidance holds."""
        return self.objective.velocity(self.output(x, t, guided_as), x, self._times(x, t))

    def velocity_and_score(self, x: Tensor, t: float) -> tuple[Tensor, Tensor]:
        """Both from a single forward."""
        out, times = self.output(x, t), self._times(x, t)
        return self.objective.velocity(out, x, times), self.objective.score(out, x, times)

    def data(self, x: Tensor, t: float) -> Tensor:
        """The clean data (B, C, H, W) that the network expects behind x, float64."""
        return self.objective.data(self.output(x, t), x, self._times(x, t))

    def output(self, x: Tensor, t: float, guided_as: float | None = None) -> Tensor:
        """The network's own guided output (B, C or 2C, H, W), float64."""
        self.nfe += 1
        x_in, times = self.objective.inputs(x, self._times(x, t))
        position = self.objective.position(t if guided_as is None else guided_as)
        return self.guidance(self.network, x_in.float(), times[0], self.y, self.null, position).double()

    def average_velocity(self, x: Tensor, t: float, r: float) -> Tensor:
        """Of the stretch from t down to r (B, C, H, W), float64, by a network that is fed both times."""
        self.nfe += 1
        pair = torch.tensor([t, r], dtype=x.dtype, device=x.device)
        return self.guidance(self.network, x.float(), pair, self.y, self.null, self.objective.position(t)).double()

    @staticmethod
    def _times(x: Tensor, t: float) -> Tensor:
        return torch.full((len(x),), t, dtype=x.dtype, device=x.device)


def check_fit(sampler: object, objective: Objective) -> None:
    """Refuse a sampler that asks (in its attribute `asks`) for what an objective does not give; one without that
    attribute fits all.

    Raises:
        DiffxError: says which sampler to type.
    """
    asks = getattr(sampler, "asks", None)
    if asks is not None and asks not in objective.gives:
        what, of = STEPS.get(asks, asks), type(objective).__name__
        raise DiffxError(
            f"{type(sampler).__name__} steps through {what}, which {of} does not have; "
            f"type sampler={objective.samplers}."
        )
