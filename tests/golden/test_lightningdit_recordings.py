"""Agreement with hustvl/LightningDiT, whose time runs from noise (0) to data (1): 1 − t here, the velocity negated."""

import pytest
import torch
from recordings import Recording, assert_agrees, imported, load
from torch import Tensor

from diffx.backbone import DiT
from diffx.objective import Interpolant
from diffx_plugins.direction import Direction


@pytest.fixture(scope="module", params=["lightningdit", "lightningdit_qknorm"])
def recorded(request: pytest.FixtureRequest) -> Recording:
    return load(request.param)


@pytest.fixture(scope="module")
def backbone(recorded: Recording) -> DiT:
    return imported(recorded, "lightningdit")[0]


@torch.no_grad()
def test_the_forward_agrees(recorded, backbone):
    assert_agrees(-backbone(recorded["x"], 1 - recorded["t"], recorded["y"]), recorded["out"])


@torch.no_grad()
def test_where_the_squared_error_is_the_recorded_one_the_direction_loss_is_too(recorded, backbone):
    """The recording has the losses of a step and its noise, and not the times: each sample's is found by bisection."""
    x, noise, y = recorded["x"], recorded["draw0_randn_like"], recorded["y"]

    def terms(their_t: Tensor) -> tuple[Tensor, Tensor]:
        t = 1 - their_t
        out = backbone(Interpolant().noised(x, noise, t), t, y)
        pairs = zip(out, noise - x, strict=True)
        direction = [Direction().loss({}, o[None], {"target": target[None]}) for o, target in pairs]
        return Interpolant().loss(out, x, noise, t), torch.stack(direction)

    low, high = torch.zeros(3), torch.ones(3)
    rises = terms(high)[0] > terms(low)[0]
    for _ in range(20):
        middle = (low + high) / 2
        beyond = (terms(middle)[0] > recorded["train.loss"]) == rises
        low, high = torch.where(beyond, low, middle), torch.where(beyond, middle, high)
    error, direction = terms(middle)
    assert_agrees(error, recorded["train.loss"], 1e-6)
    assert_agrees(direction, recorded["train.cos_loss"])
    assert ((middle > 0.1) & (middle < 0.9)).all()  # and no end of the interval
