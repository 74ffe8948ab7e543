"""Identity: blocks that do nothing and stay as they are."""

import pytest
import torch

from diffx.assemble.flops import count_flops
from diffx.backbone import DDT, DiT
from diffx.backbone.protocol import Memory
from diffx.errors import DiffxError
from diffx.testing import TinyRun, tiny_backbone, tiny_mdt
from diffx_plugins.identity import Identity


def test_the_loss_is_that_of_a_network_without_these_blocks():
    run = TinyRun({"it": Identity(1, 3)})
    draws = run.draws()
    tokens, cond = run.backbone.embed(
        run.objective.noised(draws.x, draws.noise["main"], draws.t), draws.t, draws.y["main"], Memory()
    )
    for depth in (0, 4, 5):
        tokens = run.backbone.run_block(depth, tokens, cond, Memory())
    out = run.backbone.head(tokens, cond)
    expected = run.objective.loss(out, draws.x, draws.noise["main"], draws.t).mean()
    torch.testing.assert_close(run.losses(draws)["denoise"], expected)


def test_sampling_from_a_fresh_network_runs_what_was_trained_however_long():
    torch.manual_seed(0)
    run = TinyRun({"it": Identity(1, 3)}, DiT.tiny())
    trained = [p for p in run.backbone.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=0.1, weight_decay=0.1)
    for step in range(3):
        run.losses(run.draws(step))["total"].backward()
        optimizer.step()
        optimizer.zero_grad()
    draws = run.draws(3)
    x_t = run.objective.noised(draws.x, draws.noise["main"], draws.t)
    out = run.backbone(x_t, draws.t, draws.y["main"])
    assert out.abs().max() > 0.01
    denoise = run.objective.loss(out, draws.x, draws.noise["main"], draws.t).mean()
    torch.testing.assert_close(run.losses(draws)["denoise"], denoise)


def test_the_cost_falls_by_the_blocks_left_out():
    run = TinyRun({"it": Identity(7, 20)}, tiny_backbone(depth=28))
    flops = count_flops(run.backbone, run.plugins, run.objective, run.plan, {})
    assert flops.relative == pytest.approx(0.5, abs=0.02)


@pytest.mark.parametrize("settings", [{"start": 4, "end": 3}, {"start": 2, "end": 6}, {"start": -1, "end": 2}])
def test_blocks_that_are_none_are_refused(settings):
    with pytest.raises(DiffxError, match=f"start={settings['start']} and end={settings['end']}"):
        Identity(**settings).setup(tiny_backbone())


def test_a_block_that_merges_an_earlier_state_is_refused():
    with pytest.raises(DiffxError, match="merges an earlier state"):
        Identity(0, 5).setup(tiny_mdt(skips=True))


@pytest.mark.parametrize(
    "backbone",
    [
        DiT.tiny(conditioning="in_context"),
        DiT.tiny(conditioning="post_norm"),
        DiT.tiny(conditioning="adaln"),
        DiT.tiny(zero_init=False),
        DDT.tiny(),
    ],
    ids=["in_context", "post_norm", "adaln", "raw", "ddt"],
)
def test_blocks_that_do_not_start_as_the_identity_are_refused(backbone):
    """Else sampling would run them as they were drawn."""
    with pytest.raises(DiffxError, match="do not start as the identity"):
        Identity(1, 3).setup(backbone)
