"""The early head of RAEv2's network: a loss of its own, and a guide of the same forward."""

import pytest
import torch

from diffx.backbone import RAE2
from diffx.errors import DiffxError
from diffx.objective import DDPM
from diffx.testing import BATCH, TinyRun, tiny_backbone, tiny_of
from diffx_plugins.early_head import EarlyHead, EarlyHeadGuidance
from diffx_plugins.tread import TREAD


def net():
    return tiny_of(RAE2, early_depth=2)


def test_its_loss_is_the_objectives_of_the_early_prediction_and_trains_the_blocks_before_it():
    run = TinyRun({"early": EarlyHead(1.0)}, net())
    draws = run.draws()
    terms = run.losses(draws)
    terms["early"].backward()
    reached = [bool(block.attn.qkv.weight.grad.any()) for block in run.backbone.blocks]
    assert reached == [True, True, False, False, False, False]
    x_t = run.objective.noised(draws.x, draws.noise["main"], draws.t)
    early = run.backbone(x_t, draws.t, draws.y["main"])[:, 4:]
    wanted = (early - (draws.noise["main"] - draws.x)).square().mean()
    torch.testing.assert_close(terms["early"], wanted)


def test_without_the_head_the_full_prediction_is_the_same():
    backbone = net()
    plain = tiny_of(RAE2)
    plain.load_state_dict({k: w for k, w in backbone.state_dict().items() if not k.startswith("early_layer.")})
    x, t, y = torch.randn(BATCH, 4, 8, 8), torch.rand(BATCH), torch.arange(BATCH)
    torch.testing.assert_close(backbone(x, t, y)[:, :4], plain(x, t, y))
    assert plain(x, t, y).shape == x.shape


def test_the_guide_is_the_early_prediction_with_the_label_kept():
    backbone, x, y = net(), torch.randn(2, 4, 8, 8), torch.tensor([1, 2])
    full, early = backbone(x, torch.full((2,), 0.5), y).chunk(2, 1)
    found = EarlyHeadGuidance(2.5)(backbone, x, 0.5, y, torch.full((2,), 10))
    torch.testing.assert_close(found, early + 2.5 * (full - early))
    torch.testing.assert_close(
        EarlyHeadGuidance(2.5)(backbone, x, 0.05, y, y), backbone(x, torch.full((2,), 0.05), y)[:, :4]
    )


def test_a_network_without_an_early_head_is_refused_by_both():
    with pytest.raises(DiffxError, match=r"this DiT has none; type backbone=rae2_xl"):
        TinyRun({"early": EarlyHead()}, tiny_backbone())
    with pytest.raises(DiffxError, match=r"this DiT has no early head"):
        EarlyHeadGuidance().check_backbone(tiny_backbone())


def test_what_the_second_half_of_the_channels_means_to_another_is_refused():
    plugin = EarlyHead()
    plugin.objective = DDPM()
    with pytest.raises(DiffxError, match="type objective=linear"):
        plugin.setup(net())


def test_a_stop_is_refused_with_the_schedule_to_type():
    plugin = EarlyHead()
    plugin.stop, plugin.objective = 5, TinyRun({}).objective
    with pytest.raises(DiffxError, match="schedule: jump"):
        plugin.setup(net())


def test_a_route_across_the_head_is_refused_and_one_behind_it_trains():
    with pytest.raises(DiffxError, match=r"plugins\.tread narrows blocks on both sides of block 2"):
        TinyRun({"early": EarlyHead(), "tread": TREAD(0.5, 1, 3)}, net())
    run = TinyRun({"early": EarlyHead(), "tread": TREAD(0.5, 2, 3)}, net())
    assert run.plan.views[0].tokens == (22, 22, 14, 14, 16, 16, 16)
    assert run.losses(run.draws())["total"].isfinite()


@pytest.mark.parametrize("setting", [{"early_depth": 4}, {"early_depth": 0}, {"time_tokens": 0}, {"decoder_heads": 5}])
def test_sizes_that_do_not_fit_are_refused_with_their_key(setting):
    with pytest.raises(DiffxError, match=next(iter(setting))):
        RAE2.tiny(**setting)
