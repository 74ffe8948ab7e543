"""Guidance of a network that was trained with a contrast: what the contrast pushed it away from is put back."""

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor

from diffx.backbone.protocol import Condition
from diffx.errors import DiffxError
from diffx.objective import Objective
from diffx.sampler.guidance import Guidance, Network

KEY = "mean_target"


@dataclass(frozen=True)
class ContrastiveGuidance:
    """(1 − weight) g + weight m, with g the output of classifier-free guidance and m the mean target over the data.

    The minimum of the loss with a contrast is v* = (E[target | x_t, y] − weight E[other target]) / (1 − weight), so
    that a trained network overshoots away from the mean, and guidance makes it worse. This gives back
    E[target | x_t, y] at every time; it commutes with classifier-free guidance. The official code subtracts weight · m'
    with an m' from a file; that m' is −m follows from the equation and was not checked against the file.

    weight: as trained. interference: the file that holds m, which `python -m diffx_plugins.contrastive RUN` writes.
    scale, low, high: of classifier-free guidance, in the official code 1.85 on [0, 0.65] with 50 steps.
    """

    scale: float = 1.0
    low: float = 0.0
    high: float = 1.0
    weight: float = 0.05
    interference: str | None = None

    def __post_init__(self) -> None:
        Guidance(self.scale, self.low, self.high)
        if not 0 <= self.weight < 1:
            raise DiffxError(f"guidance.weight={self.weight} must lie in [0, 1); type the plugin's λ, such as 0.05.")
        if self.interference is None or not Path(self.interference).is_file():
            given = " is not set" if self.interference is None else f"={self.interference} is no file"
            raise DiffxError(
                f"guidance.interference{given}; python -m diffx_plugins.contrastive RUN writes one: type its name."
            )

    def __call__(
        self,
        network: Network,
        x: Tensor,
        t: float | Tensor,
        y: Condition,
        null: Condition,
        position: float | None = None,
    ) -> Tensor:
        """The guided output at one time.

        Raises:
            DiffxError: the file is of other data.
        """
        guided = Guidance(self.scale, self.low, self.high)(network, x, t, y, null, position)
        mean = read_mean(str(self.interference)).to(guided)
        if mean.shape != guided.shape[1:]:
            raise DiffxError(
                f"{self.interference} holds a mean of shape {tuple(mean.shape)}, and this network gives "
                f"{tuple(guided.shape[1:])}; make it with the run that is sampled."
            )
        return torch.lerp(guided, mean.expand_as(guided), self.weight)

    def check_objective(self, objective: Objective) -> None:
        """Refuse an objective whose mean target is not one vector for all times."""
        mean_target(objective, torch.ones(1, 1, 1))


@lru_cache(maxsize=4)
def read_mean(file: str) -> Tensor:
    """The mean target in a file, (C, H, W)."""
    tensors = load_file(file)
    if KEY not in tensors:
        raise DiffxError(f"{file} holds no {KEY}; python -m diffx_plugins.contrastive RUN writes one that does.")
    return tensors[KEY]


def mean_target(objective: Objective, mean: Tensor) -> Tensor:
    """What the target is on average, which must not depend on the time: E[target] = target(E[x], 0, t).

    Raises:
        DiffxError: it does, so that there is no one vector.
    """
    early, late = (objective.target(mean[None], torch.zeros_like(mean)[None], torch.tensor([t])) for t in (0.2, 0.8))
    if not torch.allclose(early, late):
        raise DiffxError(
            "The mean target of this objective changes with time, and the correction has one vector for all times; it "
            "is for objective=linear."
        )
    return early[0]
