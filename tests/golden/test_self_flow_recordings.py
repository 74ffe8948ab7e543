"""Agreement with Self-Flow and DTS + AS as in vvvvvjdy/SRA, whose time runs as ours does."""

import pytest
import torch
from recordings import Recording, assert_agrees, load, part, plain_backbone

from diffx.backbone.teacher import NetworkTeacher
from diffx.objective import Interpolant
from diffx.planner import make_plan
from diffx.step import Draws, losses
from diffx_plugins.self_flow import SelfFlow

CASE = load("self_flow")


@torch.no_grad()
@pytest.mark.parametrize("mode", ["self_flow", "dts_as"])
def test_times_denoising_and_alignment_agree(mode, monkeypatch):
    backbone, objective = plain_backbone(CASE), Interpolant()
    averaged = {"pos_embed": CASE.weights["pos_embed"]} | part(CASE.weights, "teacher.")
    teacher = plain_backbone(Recording(CASE.config, averaged, {}))
    loss = {"self_flow": "l2", "dts_as": "smooth_l1"}[mode]
    plugin = SelfFlow(2, 3, separate=mode == "dts_as", loss=loss)
    plugin.objective = objective
    plugin.setup(backbone)
    for index, layer in ((0, "ap_head.linear1."), (2, "ap_head.linear2.")):
        plugin.head[index].load_state_dict(part(CASE.weights, layer))
    recorded = {key.removeprefix(f"{mode}."): value for key, value in CASE.io.items() if key.startswith(mode)}
    t, other, noise = recorded["draw1_rand"].flatten(), recorded["draw2_rand"].flatten(), recorded["draw3_randn_like"]
    given = [recorded["draw0_rand"]]
    if mode == "dts_as":
        given.append(torch.cat([recorded["draw4_rand_like"], recorded["draw5_rand_like"]], 1).flatten(1))
    monkeypatch.setattr("diffx_plugins.self_flow.torch.rand", lambda *shape, **options: given.pop(0))
    monkeypatch.setattr(objective, "times", lambda count, rng: other)
    aux = plugin.retime(t, torch.Generator())
    assert_agrees(aux["times"], recorded["token_times"])
    drawn = {"x": CASE["x"], "noise": noise, "y": CASE["y"], "ema": NetworkTeacher(teacher)}
    aux |= plugin.prepare(drawn | aux, torch.Generator())
    plugins = {"it": plugin}
    plan = make_plan(backbone, plugins, plugin.needs)
    draws = Draws(CASE["x"], t, {"main": noise}, {"main": CASE["y"]}, {"it": aux})
    terms = losses(backbone, plan, plugins, objective, draws)
    assert_agrees(terms["denoise"], recorded["denoise"].mean())
    assert_agrees(terms["it"], recorded["align"])
