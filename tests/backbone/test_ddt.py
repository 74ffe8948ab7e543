"""DDT beside its recording: sizes, its border, times of each token."""

import pytest
import torch

from diffx.backbone import DDT
from diffx.errors import DiffxError
from diffx.testing import BATCH, TinyRun, tiny_of
from diffx_plugins.tread import TREAD

SIZES = {"xl": (1152, 28, 16, 6, 674.65), "l": (1024, 24, 16, 4, 457.65), "b": (768, 12, 12, 4, 130.26)}


@pytest.mark.parametrize("size", SIZES)
def test_the_parameters_are_as_many_as_the_official_networks(size):
    width, depth, heads, decoder, millions = SIZES[size]
    with torch.device("meta"):
        net = DDT(hidden_size=width, depth=depth, num_heads=heads, decoder_layers=decoder)
    assert sum(p.numel() for p in net.parameters()) / 1e6 == pytest.approx(millions, abs=0.006)


def test_a_route_across_the_border_is_refused():
    with pytest.raises(DiffxError, match=r"plugins\.tread narrows blocks on both sides of block 4"):
        TinyRun({"tread": TREAD(0.5, 1, 4)}, tiny_of(DDT))


@pytest.mark.parametrize(("start", "last"), [(1, 3), (4, 5)])
def test_a_route_on_either_side_of_the_border_trains(start, last):
    run = TinyRun({"tread": TREAD(0.5, start, last)}, tiny_of(DDT))
    assert run.plan.views[0].kept == {"tread": (8,)}
    assert run.losses(run.draws())["total"].isfinite()


@torch.no_grad()
def test_times_of_each_token_that_are_all_alike_are_the_samples_time():
    net = tiny_of(DDT)
    x, t, y = torch.randn(BATCH, 4, 8, 8), torch.rand(BATCH), torch.arange(BATCH)
    torch.testing.assert_close(net(x, t[:, None].expand(-1, 16), y), net(x, t, y))


def test_a_decoder_that_leaves_no_encoder_is_refused():
    with pytest.raises(DiffxError, match="leaves no encoder"):
        DDT.tiny(decoder_layers=6)
