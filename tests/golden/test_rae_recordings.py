"""Agreement with bytetriper/RAE's DiT^DH, and with what it trains on: shifted log-normal times and the velocity."""

import pytest
import torch
from recordings import Recording, assert_agrees, load

from diffx.backbone import DiTDH
from diffx.objective import Interpolant


@pytest.fixture(scope="module")
def recorded() -> Recording:
    return load("rae_ddt")


@pytest.fixture(scope="module")
def backbone(recorded: Recording) -> DiTDH:
    config = recorded.config
    widths, depths, heads = (config[key] for key in ("hidden_size", "depth", "num_heads"))
    backbone = DiTDH(
        **{key: config[key] for key in ("input_size", "patch_size", "in_channels", "num_classes")},
        hidden_size=widths[0],
        depth=depths[0],
        num_heads=heads[0],
        decoder_width=widths[1],
        decoder_depth=depths[1],
        decoder_heads=heads[1],
    )
    backbone.load_state_dict(recorded.weights, strict=True)
    return backbone.eval()


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
