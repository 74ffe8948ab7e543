"""Agreement with vvvvvjdy/SRA, whose time runs as ours does."""

import pytest
import torch
from recordings import Recording, assert_agrees, load, part, plain_backbone, walked

from diffx.backbone.teacher import NetworkTeacher
from diffx.objective import Interpolant
from diffx_plugins.sra import SRA

CASE = load("sra")
KINDS = {"sml1": "smooth_l1", "l2": "l2", "cos": "cos"}  # theirs: ours


@torch.no_grad()
@pytest.mark.parametrize("theirs", KINDS)
def test_the_denoising_and_the_alignment_loss_agree(theirs, monkeypatch):
    backbone, objective = plain_backbone(CASE), Interpolant()
    teacher = plain_backbone(Recording(CASE.config, part(CASE.io, "teacher."), {}))
    plugin = SRA(2, 3, KINDS[theirs])
    plugin.objective = objective
    plugin.setup(backbone)
    for index, layer in ((0, "ap_head.linear1."), (2, "ap_head.linear2.")):
        plugin.head[index].load_state_dict(part(CASE.weights, layer))
    t, u, noise = (CASE[f"{theirs}.{draw}"] for draw in ("draw0_rand", "draw1_rand_like", "draw2_randn_like"))
    t = t.flatten()
    monkeypatch.setattr("diffx_plugins.sra.torch.rand", lambda *shape, **options: u.flatten())
    drawn = {"x": CASE["x"], "t": t, "noise": noise, "label": CASE["y"], "ema": NetworkTeacher(teacher)}
    aux = plugin.prepare(drawn, torch.Generator())
    out, seen = walked(backbone, plugin, objective.noised(CASE["x"], noise, t), t, CASE["y"])
    assert_agrees(objective.loss(out, CASE["x"], noise, t), CASE[f"{theirs}.denoise"])
    assert_agrees(plugin.loss(seen, out, aux), CASE[f"{theirs}.align"].mean())
