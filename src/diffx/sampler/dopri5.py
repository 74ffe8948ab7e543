"""The adaptive ODE sampler of SiT: Dormand–Prince of order 5 with step-size control, from torchdiffeq."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from diffx.errors import DiffxError
from diffx.sampler.field import Field, check_fit
from diffx.sampler.noise import Noise


class Dopri5:
    """The probability-flow ODE from t = 1 to 0 with as many forwards as the tolerances need; field.nfe counts them.

    rtol, atol: SiT's defaults are 1e-3 and 1e-6. The step is chosen for a whole batch, so a sample depends, within the
    tolerance, on those beside it.
    """

    asks = "velocity"

    def __init__(self, rtol: float = 1e-3, atol: float = 1e-6) -> None:
        if not (rtol > 0 and atol > 0):
            raise DiffxError(f"sampler.rtol={rtol} and sampler.atol={atol} must be positive; type 1e-3 and 1e-6.")
        self.rtol, self.atol = rtol, atol

    def __call__(self, field: Field, x: Tensor, noise: Noise) -> Tensor:
        check_fit(self, field.objective)
        times = torch.tensor(field.ends, dtype=x.dtype, device=x.device)
        states = _odeint()(
            lambda t, state: field.velocity(state, float(t)),
            x,
            times,
            rtol=self.rtol,
            atol=self.atol,
            method="dopri5",
            options={"step_t": times},  # never evaluates past t = 0, where a path may not be defined
        )
        return states[-1]


def _odeint() -> Callable[..., Any]:
    try:
        from torchdiffeq import odeint
    except ImportError as error:
        raise DiffxError(
            "sampler=dopri5 needs the package torchdiffeq, which only this sampler uses; type "
            "pip install 'diffx-train[dopri5]', or take sampler=heun."
        ) from error
    return odeint
