"""Agreement with gstoica27/DeltaFM, whose time runs as ours does."""

import pytest
import torch
from recordings import assert_agrees, load, plain_backbone, walked

import diffx_plugins.contrastive as module
from diffx.objective import Interpolant
from diffx.streams import Streams

CASE = load("deltafm")


def recorded_partners(mode: str) -> torch.Tensor:
    """They draw an index among the others in order; ours is an index of the batch."""
    if mode == "class_conditioned":
        return CASE[f"{mode}.draw3_multinomial"][:, 0]
    drawn = CASE[f"{mode}.draw3_randint"]
    return drawn + (drawn >= torch.arange(len(drawn))).long()


@torch.no_grad()
@pytest.mark.parametrize("mode", ["all", "conditional", "class_conditioned"])
def test_the_flow_the_contrast_and_their_difference_agree(mode, monkeypatch):
    backbone, objective, plugin = plain_backbone(CASE), Interpolant(), module.Contrastive(partners=mode)
    plugin.setup(backbone)
    t, noise = CASE[f"{mode}.draw0_rand"].flatten(), CASE[f"{mode}.draw1_randn_like"]
    label = torch.where(CASE[f"{mode}.draw2_rand"] < 0.1, 10, CASE["y"])
    monkeypatch.setattr(module, "draw_partners", lambda others, rng: recorded_partners(mode))
    target = objective.target(CASE["x"], noise, t)
    aux = plugin.prepare({"target": target, "label": label}, Streams(0, 0).own("contrastive"))
    out, seen = walked(backbone, plugin, objective.noised(CASE["x"], noise, t), t, label)
    flow, contrast = objective.loss(out, CASE["x"], noise, t), plugin.loss(seen, out, aux)
    assert_agrees(flow, CASE[f"{mode}.flow_loss"])
    assert_agrees(-contrast, CASE[f"{mode}.contrastive_loss"].mean())
    assert_agrees(flow.mean() + plugin.weights()[""] * contrast, CASE[f"{mode}.loss"].mean())
