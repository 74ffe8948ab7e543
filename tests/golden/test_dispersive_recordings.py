"""Agreement with a fork of raywang4/DispLoss, whose time runs from noise (0) to data (1)."""

import pytest
import torch
from recordings import assert_agrees, load, plain_backbone, walked

from diffx.objective import Interpolant
from diffx.tokens import Tokens
from diffx_plugins.dispersive import Dispersive

CASE = load("dispersive")


@pytest.fixture(scope="module")
def backbone():
    return plain_backbone(CASE, learn_sigma=True)


@torch.no_grad()
def test_the_loss_of_the_last_block_agrees_and_is_added_to_that_of_every_sample(backbone):
    objective, plugin = Interpolant(), Dispersive()
    plugin.setup(backbone)
    noise, their_t = CASE["draw0_randn_like"], CASE["draw1_rand"]
    t = 1 - their_t
    out, seen = walked(backbone, plugin, objective.noised(CASE["x"], noise, t), their_t, CASE["y"])
    weighted = plugin.weights()[""] * plugin.loss(seen, out, {})
    assert_agrees(objective.loss(-out, CASE["x"], noise, t) + weighted, CASE["loss"])


@torch.no_grad()
@pytest.mark.parametrize(("depth", "recorded"), [(None, "last_block"), (2, "block_2")])
def test_the_loss_after_a_block_agrees(backbone, depth, recorded):
    plugin = Dispersive(depth)
    plugin.setup(backbone)
    out, seen = walked(backbone, plugin, CASE["x"], CASE["t"], CASE["y"])
    assert_agrees(plugin.loss(seen, out, {}), CASE[f"dispersive_of_{recorded}"])


def test_the_loss_of_the_recorded_tokens_agrees(backbone):
    plugin = Dispersive(2)
    plugin.setup(backbone)
    loss = plugin.loss({2: Tokens(CASE["block_2"])}, CASE["out"], {})
    assert_agrees(loss, CASE["dispersive_of_block_2"])
