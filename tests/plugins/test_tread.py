"""TREAD: skipped tokens keep the state at the route's start, and nothing else changes."""

import pytest
import torch

from diffx.backbone import DiT
from diffx.backbone.protocol import Memory
from diffx.errors import DiffxError
from diffx.plugin import Plugin, Span
from diffx.testing import TinyRun, tiny_backbone
from diffx_plugins.tread import TREAD


class Reader(Plugin):
    def __init__(self, *reads: int) -> None:
        super().__init__(weight=1.0)
        self.reads = reads

    def loss(self, seen, out, aux):
        self.seen = seen
        return out.new_zeros(())


def span_of(backbone: DiT | None = None, **settings) -> Span:
    plugin = TREAD(**settings)
    plugin.setup(backbone or tiny_backbone())
    return plugin.span


def routed_by_mask(run: TinyRun, draws, start: int, stop: int) -> torch.Tensor:
    """The denoising loss by another formula: every token walks, skipped ones are hidden from attention and reset."""
    backbone, keep = run.backbone, draws.aux["tread"]["keep"]
    x_t = run.objective.noised(draws.x, draws.noise["main"], draws.t)
    tokens, cond = backbone.embed(x_t, draws.t, draws.y["main"], Memory())
    x, here = tokens.x, torch.zeros(4, 16, 1).scatter(1, keep[..., None], 1.0)
    for depth, block in enumerate(backbone.blocks):
        out = masked_block(block, x, cond, here if start <= depth < stop else torch.ones_like(here))
        x = here * out + (1 - here) * x if start <= depth < stop else out
    target = draws.noise["main"] - draws.x
    return (backbone.head(tokens._replace(x=x), cond) - target).square().mean()


def masked_block(block, x, cond, here):
    """A block with explicit attention that no key outside `here` (B, N, 1) takes part in."""
    s1, c1, g1, s2, c2, g2 = (m[:, None] for m in block.adaLN_modulation(cond).chunk(6, dim=1))
    q, k, v = block.attn.qkv(block.norm1(x) * (1 + c1) + s1).view(4, 16, 3, 4, 8).permute(2, 0, 3, 1, 4)
    weight = (q @ k.mT / 8**0.5).exp() * here[:, None, None, :, 0]
    mixed = (weight / weight.sum(-1, keepdim=True)) @ v
    x = x + g1 * block.attn.proj(mixed.transpose(1, 2).reshape(4, 16, 32))
    return x + g2 * block.mlp(block.norm2(x) * (1 + c2) + s2)


def test_both_ends_of_the_route_are_inclusive():
    assert span_of(start=1, end=3) == Span(1, 4, 0.5, save=1)


@pytest.mark.parametrize(("depth", "end"), [(6, 4), (10, 8), (12, 8), (24, 20), (28, 24)])
def test_the_route_ends_four_blocks_before_the_last_and_two_in_shallow_backbones(depth, end):
    assert span_of(tiny_backbone(depth=depth)).stop == end + 1


def test_a_delayed_route_keeps_the_state_at_its_start_and_drops_later():
    assert span_of(start=1, drop_from=3, end=4) == Span(3, 5, 0.5, save=1)


def test_the_selection_ratio_is_the_share_routed_around_and_rounds_it_down():
    """n = N − int(N · ratio) as in CompVis/tread: of 16 tokens at 0.3, four are routed around and twelve stay."""
    assert span_of(selection_ratio=0.3).kept(16) == (12,)
    with torch.device("meta"):
        assert span_of(DiT(input_size=32, hidden_size=32, depth=12, num_heads=4), selection_ratio=0.3).kept(256) == (
            180,
        )


def test_a_skipped_token_leaves_the_route_bit_for_bit_as_it_entered():
    run = TinyRun({"tread": TREAD(start=1, end=3), "reader": Reader(1, 4)})
    draws = run.draws()
    run.losses(draws)
    before, after = run.plugins["reader"].seen[1].x, run.plugins["reader"].seen[4].x
    skipped = torch.ones(4, 16).scatter(1, draws.aux["tread"]["keep"], 0.0).bool()
    assert torch.equal(after[skipped], before[skipped])
    assert (after[~skipped] != before[~skipped]).all(dim=-1).any()


def test_loss_and_gradients_equal_those_of_a_dense_walk_with_masked_attention():
    run = TinyRun({"tread": TREAD(start=1, end=3)})
    draws = run.draws()
    trained = [p for p in run.backbone.parameters() if p.requires_grad]
    loss, other = run.losses(draws)["total"], routed_by_mask(run, draws, 1, 4)
    torch.testing.assert_close(loss, other)
    for ours, theirs in zip(torch.autograd.grad(loss, trained), torch.autograd.grad(other, trained), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-5)


def test_samples_route_different_tokens_and_every_step_draws_anew():
    run = TinyRun({"tread": TREAD()})
    first, second = (run.draws(step).aux["tread"]["keep"] for step in (0, 1))
    assert len(first.unique(dim=0)) > 1
    assert not torch.equal(first, second)


def test_it_has_no_parameter_and_no_loss():
    run = TinyRun({"tread": TREAD()})
    assert not list(run.plugins["tread"].parameters())
    assert run.losses(run.draws()).keys() == {"denoise", "total"}


@pytest.mark.parametrize("ratio", [-0.1, 1, 1.2, float("nan")])
def test_a_selection_ratio_outside_zero_to_one_is_refused(ratio):
    with pytest.raises(DiffxError, match=r"plugins.tread.selection_ratio="):
        TREAD(selection_ratio=ratio)


@pytest.mark.parametrize("route", [{"start": 4, "end": 3}, {"end": 6}, {"start": -1}, {"start": 3, "drop_from": 2}])
def test_a_route_outside_the_backbone_is_refused(route):
    with pytest.raises(DiffxError, match=r"plugins.tread"):
        TinyRun({"tread": TREAD(**route)})
