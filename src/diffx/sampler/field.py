"""The field that samplers integrate: a network seen through its objective, guided, with its forwards counted."""

import torch
from torch import Tensor

from diffx.objective import Objective
from diffx.sampler.guidance import Guidance, Network


class Field:
    """Velocity and score at (x, t), from one guided forward of the network. Samplers know no parameterisation.

    States are float64 as in REPA's samplers; the network sees float32. nfe counts forwards (a guided one, which runs
    the network on twice the batch, counts once: the interval and scale stand in the protocol).
    """

    def __init__(
        self, network: Network, objective: Objective, y: Tensor, null_label: int, guidance: Guidance | None = None
    ) -> None:
        self.network, self.objective, self.y, self.null_label = network, objective, y, null_label
        self.guidance = guidance or Guidance()
        self.nfe = 0

    def velocity(self, x: Tensor, t: float) -> Tensor:
        """The probability-flow velocity dx/dt (B, C, H, W), float64."""
        return self.objective.velocity(self._output(x, t), x, self._times(x, t))

    def velocity_and_score(self, x: Tensor, t: float) -> tuple[Tensor, Tensor]:
        """Both from a single forward."""
        out, times = self._output(x, t), self._times(x, t)
        return self.objective.velocity(out, x, times), self.objective.score(out, x, times)

    def _output(self, x: Tensor, t: float) -> Tensor:
        self.nfe += 1
        return self.guidance(self.network, x.float(), t, self.y, self.null_label).double()

    @staticmethod
    def _times(x: Tensor, t: float) -> Tensor:
        return torch.full((len(x),), t, dtype=x.dtype, device=x.device)
