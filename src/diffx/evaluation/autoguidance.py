"""Autoguidance: a weaker network as the guide (Karras et al. 2024, arXiv 2406.02507)."""

from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor

from diffx.backbone import Backbone
from diffx.backbone.protocol import Condition, state_shape
from diffx.checkpoint.average import read_average, trained_run
from diffx.config.read import read_settings
from diffx.config.target import make
from diffx.errors import DiffxError
from diffx.objective import Objective
from diffx.sampler.guidance import Guidance, Network, times_of

SETTING = "guidance.weak"


@dataclass(frozen=True)
class Autoguidance:
    """weak + scale (strong − weak), both with the label: `weak` is the average of another run, of fewer steps, a
    smaller backbone, or both.

    weak: that run's folder, of the same data and objective. scale, low, high: as of classifier-free guidance. All
    channels and streams are guided alike. It costs the weak network's forward where it acts.
    """

    scale: float = 2.0
    low: float = 0.0
    high: float = 1.0
    weak: str | None = None

    def __post_init__(self) -> None:
        Guidance(self.scale, self.low, self.high)
        if self.weak is None:
            raise DiffxError("guidance.weak is not set; type the folder of a weaker run, runs/EXPERIMENT/ID/sSEED.")
        trained_run(SETTING, self.weak)

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
            DiffxError: the weak network takes other states, or its weights cannot be read.
        """
        strong = network(x, times_of(t, x), y)
        scale = Guidance(self.scale, self.low, self.high).scale_at(float(t) if position is None else position)
        if scale == 1:
            return strong
        guide = weak_network(str(self.weak), x.device)
        if state_shape(guide) != x.shape[1:]:
            raise DiffxError(
                f"guidance.weak={self.weak} is of a network for states {tuple(state_shape(guide))}, and this one has "
                f"{tuple(x.shape[1:])}; type a run on the same data."
            )
        weak = guide(x, times_of(t, x), y)[:, : strong.shape[1]]
        return weak + scale * (strong - weak)

    def check_objective(self, objective: Objective) -> None:
        """Refuse a guide that was trained for another path or prediction: its outputs would mean something else."""
        settings = read_settings(trained_run(SETTING, str(self.weak)).settings)
        if settings.end_to_end:
            raise DiffxError(
                f"guidance.weak={self.weak} has trained an autoencoder of its own (end_to_end), whose latents no other "
                "network knows; type another run."
            )
        theirs: Objective = make(settings.objective)
        x, noise = torch.randn(2, 4, 1, 2, 2, generator=torch.Generator().manual_seed(0))
        t = objective.times(4, torch.Generator().manual_seed(0))
        alike = type(theirs) is type(objective) and all(
            torch.equal(getattr(theirs, what)(x, noise, t), getattr(objective, what)(x, noise, t))
            for what in ("noised", "target")
        )
        if not alike:
            raise DiffxError(
                f"guidance.weak={self.weak} was trained for another objective than the run that it is to guide; type "
                "a run with the same path and prediction."
            )


@lru_cache(maxsize=2)
def weak_network(run: str, device: torch.device) -> Backbone:
    """The average of a run on a device, read once."""
    return read_average(trained_run(SETTING, run)).to(device)
