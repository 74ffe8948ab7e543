"""U-ViT beside its recording: sizes, its extra tokens and its skips."""

import pytest
import torch

from diffx.backbone import UViT
from diffx.errors import DiffxError
from diffx.planner import MAIN, make_view
from diffx.plugin import Plugin
from diffx.step import walk_with_plugins
from diffx.testing import BATCH, TinyRun, tiny_of
from diffx_plugins.repa import REPA
from diffx_plugins.tread import TREAD


@pytest.mark.parametrize(
    ("width", "depth", "conv", "millions"), [(1024, 21, True, 286.8), (1152, 29, False, 500.8)], ids=["l", "h"]
)
def test_the_parameters_are_as_many_as_the_official_networks(width, depth, conv, millions):
    with torch.device("meta"):
        net = UViT(hidden_size=width, depth=depth, num_heads=16, conv=conv)
    assert sum(p.numel() for p in net.parameters()) / 1e6 == pytest.approx(millions, abs=0.06)


def test_a_route_between_the_ends_of_no_skip_keeps_time_and_label():
    run = TinyRun({"tread": TREAD(0.5, 3, 3)}, tiny_of(UViT))
    (view,) = run.plan.views
    assert view.kept == {"tread": (8 + 2,)}
    kept = run.draws().aux["tread"]["keep"]
    assert torch.equal(kept[:, -2:], torch.tensor([[16, 17]]).expand(BATCH, 2))
    assert (kept[:, :-2] < 16).all()
    assert run.losses(run.draws())["total"].isfinite()


def test_a_route_across_one_end_of_a_skip_is_refused():
    with pytest.raises(DiffxError, match=r"plugins\.tread narrows the tokens between block 2 and block 4"):
        TinyRun({"tread": TREAD(0.5, 1, 3)}, tiny_of(UViT))


@pytest.mark.parametrize(("extra", "read"), [(False, 16), (True, 18)])
def test_a_read_has_the_grids_tokens_and_time_and_label_only_where_it_asks_for_them(extra, read):
    net, reader = tiny_of(UViT), Plugin()
    reader.reads, reader.reads_extra = (0, 4), extra
    view = make_view(MAIN, net, {"reader": reader})
    x, t, y = torch.randn(BATCH, 4, 8, 8), torch.rand(BATCH), torch.arange(BATCH)
    _, seen = walk_with_plugins(net, view, {"reader": reader}, x, t, y, {"reader": {}})
    assert {tokens.x.shape for tokens in seen["reader"].values()} == {(BATCH, read, 32)}


def test_features_are_aligned_with_the_grids_tokens_alone():
    run = TinyRun({"repa": REPA(depth=2)}, tiny_of(UViT))
    assert run.losses(run.draws())["repa"].isfinite()


def test_a_depth_without_a_middle_is_refused():
    with pytest.raises(DiffxError, match=r"type backbone\.depth=21"):
        UViT(depth=20)
