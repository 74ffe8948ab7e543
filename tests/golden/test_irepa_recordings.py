"""Agreement with End2End-Diffusion/iREPA, whose time runs as ours does."""

import pytest
import torch
from recordings import assert_agrees, load, part, plain_backbone, walked

from diffx.objective import Interpolant
from diffx_plugins.repa import REPA, GridConvolution

FEATURES = "features/recorded"
CASE = load("irepa")


@pytest.fixture(scope="module")
def backbone():
    return plain_backbone(CASE)


@pytest.fixture(scope="module")
def plugin(backbone):
    """The plugin with the recorded convolution, whose sizes are those of no real encoder."""
    plugin = REPA(depth=CASE.config["encoder_depth"], weight=1.0, projector="conv3", spatial_norm=0.6)
    plugin.setup(backbone)
    plugin.projectors[0] = GridConvolution(backbone.hidden_size, CASE.config["z_dims"][0], backbone.side)
    plugin.projectors[0].conv.load_state_dict(part(CASE.weights, "projectors.0.projection_layer."), strict=True)
    plugin.needs = (FEATURES,)
    return plugin


@torch.no_grad()
def test_the_forward_and_the_convolved_tokens_agree(backbone, plugin):
    out, seen = walked(backbone, plugin, CASE["x"], CASE["t"], CASE["y"])
    assert_agrees(out, CASE["out"])
    assert_agrees(plugin.projectors[0](seen[2].x), CASE["projected"])


def test_the_features_normalised_over_places_agree(plugin):
    assert_agrees(plugin.prepare({FEATURES: CASE["features"]}, None)[FEATURES], CASE["features_normalised"])


@torch.no_grad()
def test_the_denoising_and_the_alignment_loss_agree(backbone, plugin):
    objective, t, noise = Interpolant(), CASE["draw0_rand"].flatten(), CASE["draw1_randn_like"]
    out, seen = walked(backbone, plugin, objective.noised(CASE["x"], noise, t), t, CASE["y"])
    aux = plugin.prepare({FEATURES: CASE["features"]}, None)
    assert_agrees(objective.loss(out, CASE["x"], noise, t), CASE["denoise"])
    assert_agrees(plugin.loss(seen, out, aux), CASE["align"])
