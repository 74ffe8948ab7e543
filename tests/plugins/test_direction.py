"""Direction: one minus the cosine between prediction and target over channels."""

import torch

from diffx.testing import TinyRun, tiny_backbone
from diffx_plugins.direction import Direction


def test_the_loss_is_half_the_squared_distance_of_unit_vectors_at_each_place():
    run = TinyRun({"it": Direction()})
    draws = run.draws()
    out = run.backbone(run.objective.noised(draws.x, draws.noise["main"], draws.t), draws.t, draws.y["main"])
    target = draws.noise["main"] - draws.x
    a, b = (v / v.square().sum(1, keepdim=True).sqrt() for v in (out, target))
    torch.testing.assert_close(run.losses(draws)["it"], ((a - b).square().sum(1) / 2).mean())


def test_channels_of_a_learned_sigma_are_left_out():
    plugin, target = Direction(), torch.randn(2, 4, 8, 8)
    out = torch.cat([3 * target, torch.randn(2, 4, 8, 8)], dim=1)
    torch.testing.assert_close(plugin.loss({}, out, {"target": target}), torch.tensor(0.0), atol=1e-6, rtol=0)


def test_it_trains_on_a_backbone_of_learned_sigma():
    run = TinyRun({"it": Direction()}, tiny_backbone(learn_sigma=True))
    assert 0 < run.losses(run.draws())["it"] < 2
