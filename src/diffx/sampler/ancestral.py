"""DDPM's ancestral sampler over some of the 1000 steps (Ho et al. 2020; respacing of Nichol & Dhariwal 2021)."""

from itertools import accumulate, repeat
from typing import Protocol, cast

import torch
from torch import Tensor

from diffx.errors import DiffxError
from diffx.objective.ddpm import STEPS, Chain, make_chain
from diffx.sampler.field import Field, check_fit
from diffx.sampler.noise import Noise


class HasChain(Protocol):
    """An objective that gives "chain"."""

    chain: Chain

    def log_variance(self, out: Tensor, x: Tensor, at: Chain) -> Tensor: ...


class Ancestral:
    """Draws x_{t-1} from p(x_{t-1} | x_t) with the objective's variance over `nfe` of the 1000 steps, one forward each.

    The network is fed the original steps; the chain's β are those that the kept steps' ᾱ imply. Predicted data are not
    clipped (DiT, MDT: clip_denoised false). The last step adds no noise.
    """

    asks = "chain"

    def __init__(self, nfe: int = 250) -> None:
        if not 2 <= nfe <= STEPS:
            raise DiffxError(f"sampler.nfe={nfe} is not from 2 to {STEPS}; type for instance sampler.nfe=250.")
        self.nfe = nfe

    def __call__(self, field: Field, x: Tensor, noise: Noise) -> Tensor:
        check_fit(self, field.objective)
        steps, objective = respaced_steps(self.nfe), cast(HasChain, field.objective)
        chain = make_chain(objective.chain.alpha_bar[steps])
        for k in reversed(range(self.nfe)):
            at = Chain(*(entry[k].item() for entry in chain))  # type: ignore[arg-type]
            out, t = field.output(x, steps[k]), torch.full((len(x),), steps[k], device=x.device)
            mean = at.from_data * field.objective.data(out, x, t) + at.from_state * x
            if k == 0:
                return mean
            x = mean + (objective.log_variance(out, x, at) / 2).exp() * noise(x)
        raise AssertionError("nfe is at least 2")


def respaced_steps(count: int) -> list[int]:
    """`count` steps from 0 to 999, evenly spaced and rounded: 250 are 0, 4, 8, ..., 995, 999 (DiT)."""
    stride = (STEPS - 1) / (count - 1)
    # A running sum, not k · stride: the two round differently at halves, and DiT's is the sum.
    return [round(place) for place in accumulate(repeat(stride, count - 1), initial=0.0)]
