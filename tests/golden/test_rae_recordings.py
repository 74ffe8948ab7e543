"""Agreement with bytetriper/RAE's DiT^DH, and with what it trains on: shifted log-normal times and the velocity."""

import pytest
import torch
from recordings import Recording, assert_agrees, imported, load

from diffx.backbone import DiTDH
from diffx.objective import Interpolant


@pytest.fixture(scope="module")
def recorded() -> Recording:
    return load("rae_ddt")


@pytest.fixture(scope="module")
def backbone(recorded: Recording) -> DiTDH:
    return imported(recorded, "dit-dh")[0]


@torch.no_grad()
def test_the_forward_agrees_with_a_label_and_without(recorded, backbone):
    x, t, y = recorded["x"], recorded["t"], recorded["y"]
    assert_agrees(backbone(x, t, y), recorded["out"])
    assert_agrees(backbone(x, t, backbone.null_condition(y)), recorded["out_null"])


def test_the_times_agree_given_their_draw(recorded, monkeypatch):
    """Theirs come by the inverse distribution function too. What they cut off at the ends is too little to be seen."""
    monkeypatch.setattr(torch, "rand", lambda count, **options: recorded["train.draw1_rand"].double())
    objective = Interpolant(times="lognormal", truncate=(0, 1), shift=recorded.config["time_shift"])
    assert_agrees(objective.times(3, torch.Generator()), recorded["train.t"], 1e-6)


@torch.no_grad()
def test_the_loss_agrees(recorded, backbone):
    objective = Interpolant()
    x, noise, t = recorded["x"], recorded["train.draw0_randn_like"], recorded["train.t"]
    out = backbone(objective.noised(x, noise, t), t, recorded["y"])
    assert_agrees(objective.loss(out, x, noise, t), recorded["train.loss"])
