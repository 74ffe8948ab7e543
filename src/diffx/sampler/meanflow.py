"""MeanFlow's sampler: from noise to data in one step or a few, each by the average velocity of its stretch (Geng et al.
2025, arXiv 2505.13447)."""

from itertools import pairwise

import torch
from torch import Tensor

from diffx.errors import DiffxError
from diffx.sampler.field import Field, check_fit
from diffx.sampler.noise import Noise


class MeanFlowSteps:
    """x_r = x_t − (t − r) u(x_t, r, t) over `nfe` equal stretches from t = 1 to 0, one forward each.

    For objective=meanflow, which may have been trained on a guided field: guidance here then comes on top of it.
    """

    asks = "average_velocity"

    def __init__(self, nfe: int = 1) -> None:
        if nfe < 1:
            raise DiffxError(f"sampler.nfe={nfe}: a sampler needs at least one forward; type sampler.nfe=1, or 2.")
        self.nfe = nfe

    def __call__(self, field: Field, x: Tensor, noise: Noise) -> Tensor:
        check_fit(self, field.objective)
        for t, r in pairwise(torch.linspace(*field.ends, self.nfe + 1, dtype=torch.float64).tolist()):
            x = x - (t - r) * field.average_velocity(x, t, r)
        return x
