"""Agreement of the DDPM and EDM objectives, their samplers and MDT's guidance with the official implementations."""

import pytest
import torch
from recordings import Recording, assert_agrees, load, plain_backbone

from diffx.backbone import DiT
from diffx.objective import DDPM, EDM
from diffx.sampler import Ancestral, Field, Guidance

MIN_SNR = {"dit": None, "mdt_v1": None, "mdt_v2": 5.0}


def backbone_of(name: str, recording: Recording) -> DiT:
    if name == "dit":
        return plain_backbone(recording, learn_sigma=True)
    return plain_backbone(
        recording,
        learn_sigma=True,
        position="learned",
        relative_bias=True,
        decoder_layers=recording.config["decode_layer"],
        skips=name == "mdt_v2",
    )


@torch.no_grad()
@pytest.mark.parametrize("name", MIN_SNR)
def test_the_hybrid_loss_agrees_term_by_term(name):
    recorded = load(name)
    objective = DDPM(MIN_SNR[name])
    x, noise, t = recorded["x"], recorded["noise"], recorded["t"]
    out = backbone_of(name, recorded)(*objective.inputs(objective.noised(x, noise, t), t), recorded["y"])
    assert_agrees(objective.squared_error(out, noise, t), recorded["mse"])
    assert_agrees(objective.variational_term(out, x, noise, t), recorded["vb"])
    assert_agrees(objective.loss(out, x, noise, t), recorded["loss"])


def test_the_noised_state_agrees():
    dit = load("dit")
    assert_agrees(DDPM().noised(dit["x"], dit["noise"], dit["t"]), dit["x_t"])


@torch.no_grad()
def test_ten_respaced_ancestral_steps_end_at_the_recorded_point():
    dit = load("dit")
    backbone = backbone_of("dit", dit)
    field = Field(backbone, DDPM(), dit["y"], backbone.null_condition(dit["y"]))
    draws = iter(dit["sample_noises"].double())
    sample = Ancestral(10)(field, dit["sample_init"].double(), lambda x: next(draws))
    assert_agrees(sample, dit["sample_10"], 1e-4)
    assert field.nfe == 10
    assert len(list(draws)) == 1  # theirs draws in the last step too, and multiplies by 0


@torch.no_grad()
def test_mdts_guided_forward_agrees():
    """Each sample has its own step. The recorded network has no null row: its "unconditional" half has the same labels,
    so this recording cannot tell one scale from another; the next test has the official scales."""
    mdt = load("mdt_v2")
    backbone, guidance = backbone_of("mdt_v2", mdt), Guidance(scale=3.8, channels=3, power=4)
    for k, (t, label) in enumerate(zip(mdt["t"].tolist(), mdt["y"].tolist(), strict=True)):
        one = slice(k, k + 1)
        out = guidance(
            backbone, mdt["x"][one], t, mdt["y"][one], torch.full_like(mdt["y"][one], label), DDPM().position(t)
        )
        assert_agrees(out, mdt["cfg_out"][one])


@pytest.mark.parametrize(("step", "scale"), [(750, 1.000), (500, 1.03), (250, 1.64), (100, 3.06)])
def test_the_power_cosine_scale_is_the_one_that_mdts_code_gave(step, scale):
    """Run once with the official code's command values, scale 3.8 and power 4; printed to the digits given here."""
    decimals = len(str(scale).split(".")[1]) if scale != 1 else 3
    assert round(Guidance(scale=3.8, power=4).scale_at(DDPM().position(step)), decimals) == scale


@torch.no_grad()
def test_treads_edm_loss_agrees_element_by_element():
    """draw0 gives the noise levels, draw1 the noise, draw2 which labels are dropped, evaluation mode or not."""
    tread = load("tread")
    backbone, objective = plain_backbone(tread), EDM()
    t = (objective.mean + objective.std * tread["edm_draw0_randn"].flatten()).exp()
    x, noise = tread["x"], tread["edm_draw1_randn_like"]
    y = torch.where(tread["edm_draw2_rand"] < 0.1, backbone.num_classes, tread["y"])
    x_t = objective.noised(x, noise, t)
    out = backbone(*objective.inputs(x_t, t), y)
    error = (objective.data(out, x_t, t) - x).square()
    assert_agrees(objective.weight(t).view(-1, 1, 1, 1) * error, tread["edm_loss"])
    assert_agrees(objective.loss(out, x, noise, t), tread["edm_loss"].mean((1, 2, 3)))
