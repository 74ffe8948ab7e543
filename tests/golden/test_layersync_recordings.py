"""Agreement with vita-epfl/LayerSync, whose time runs from noise (0) to data (1): 1 − t here, the velocity negated."""

import torch
from recordings import assert_agrees, load, plain_backbone, walked

from diffx.objective import Interpolant
from diffx_plugins.layersync import LayerSync


@torch.no_grad()
def test_the_denoising_and_the_alignment_loss_agree():
    case, objective = load("layersync"), Interpolant()
    backbone = plain_backbone(case)
    plugin = LayerSync(case.config["encoder_depth"], case.config["gt_encoder_depth"])
    plugin.setup(backbone)
    noise, their_t = case["draw0_randn_like"], case["draw1_rand"]
    t = 1 - their_t
    out, seen = walked(backbone, plugin, objective.noised(case["x"], noise, t), their_t, case["y"])
    assert_agrees(objective.loss(-out, case["x"], noise, t), case["denoise"])
    assert_agrees(plugin.loss(seen, out, {}), case["sync"].mean())
