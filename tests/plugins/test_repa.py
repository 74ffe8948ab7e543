"""REPA: minus the cosine between projected tokens and a frozen encoder's features."""

import pytest
import torch

from diffx.backbone import DiT
from diffx.backbone.protocol import Memory
from diffx.errors import DiffxError
from diffx.testing import TinyRun, tiny_backbone
from diffx.tokens import Tokens
from diffx_plugins.repa import REPA
from diffx_plugins.tread import TREAD

FEATURES = "features/dinov2_vitb14"


def ready(**settings) -> REPA:
    torch.manual_seed(0)
    plugin = REPA(**{"projector_dim": 16} | settings)
    plugin.setup(tiny_backbone())
    return plugin


def by_hand(plugin: REPA, x: torch.Tensor, features: torch.Tensor, projector: int = 0) -> torch.Tensor:
    """The same loss by another formula: cosine = 1 − |a − b|²/2 of unit vectors, the three layers written out."""
    first, _, second, _, third = plugin.projectors[projector]
    hidden = x @ first.weight.T + first.bias
    hidden = (hidden * hidden.sigmoid()) @ second.weight.T + second.bias
    z = (hidden * hidden.sigmoid()) @ third.weight.T + third.bias
    a, b = (v / v.square().sum(-1, keepdim=True).sqrt() for v in (z, features))
    return ((a - b).square().sum(-1) / 2 - 1).mean()


@pytest.mark.parametrize(("blocks", "depth"), [(28, 8), (24, 8), (12, 4), (6, 2), (2, 1)])
def test_by_default_it_reads_after_block_eight_and_after_a_third_of_a_shallow_backbone(blocks, depth):
    plugin = REPA(projector_dim=16)
    plugin.setup(tiny_backbone(depth=blocks))
    assert plugin.reads == (depth,)


def test_depth_counts_blocks_from_one_and_the_last_is_before_the_head():
    run = TinyRun({"repa": REPA(depth=6, projector_dim=16)})
    draws = run.draws()
    x_t = run.objective.noised(draws.x, draws.noise["main"], draws.t)
    tokens, cond = run.backbone.embed(x_t, draws.t, draws.y["main"], Memory())
    for depth in range(6):
        tokens = run.backbone.run_block(depth, tokens, cond, Memory())
    expected = by_hand(run.plugins["repa"], tokens.x, draws.aux["repa"][FEATURES])
    torch.testing.assert_close(run.losses(draws)["repa"], expected)


@pytest.mark.parametrize("depth", [0, 7, -1])
def test_a_depth_outside_the_backbone_is_refused(depth):
    with pytest.raises(DiffxError, match=f"plugins.repa.depth={depth}"):
        ready(depth=depth)


def test_an_unknown_encoder_is_refused_naming_the_known_ones():
    with pytest.raises(DiffxError, match=r"encoder=dino.*dinov2_vitb14"):
        ready(encoder="dino")


def test_the_loss_is_minus_one_for_aligned_and_plus_one_for_opposed_features():
    plugin, x = ready(), torch.randn(2, 16, 32)
    z = plugin.projectors[0](x).detach()
    for scale in (0.01, 5.0):
        torch.testing.assert_close(plugin.loss({2: Tokens(x)}, x, {FEATURES: scale * z}), torch.tensor(-1.0))
        torch.testing.assert_close(plugin.loss({2: Tokens(x)}, x, {FEATURES: -scale * z}), torch.tensor(1.0))


def test_loss_and_gradients_equal_those_of_another_formula():
    run = TinyRun({"repa": REPA(projector_dim=16)})
    plugin, x = run.plugins["repa"], torch.randn(4, 16, 32, requires_grad=True)
    features = run.draws().aux["repa"][FEATURES]
    loss, other = plugin.loss({2: Tokens(x)}, x, {FEATURES: features}), by_hand(plugin, x, features)
    torch.testing.assert_close(loss, other)
    inputs = [x, *plugin.parameters()]
    for ours, theirs in zip(torch.autograd.grad(loss, inputs), torch.autograd.grad(other, inputs), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-7)


def test_missing_tokens_are_compared_with_the_features_of_their_places():
    plugin, x, features = ready(), torch.randn(2, 3, 32), torch.randn(2, 16, 768)
    ids = torch.tensor([[9, 0, 4], [15, 2, 3]])
    expected = by_hand(plugin, x, torch.stack([features[b, ids[b]] for b in range(2)]))
    torch.testing.assert_close(plugin.loss({2: Tokens(x, ids)}, x, {FEATURES: features}), expected)


def test_the_losses_of_several_encoders_are_averaged_each_with_its_own_projector():
    names = ["dinov2_vits14", "dinov2_vitb14"]
    plugin, x = ready(encoder=names), torch.randn(2, 16, 32)
    aux = {"features/dinov2_vits14": torch.randn(2, 16, 384), FEATURES: torch.randn(2, 16, 768)}
    assert plugin.needs == tuple(aux)
    expected = sum(by_hand(plugin, x, features, i) for i, features in enumerate(aux.values())) / 2
    torch.testing.assert_close(plugin.loss({2: Tokens(x)}, x, aux), expected)


def test_the_cosine_is_taken_in_float32_under_autocast():
    plugin, x = ready(), torch.randn(2, 16, 32)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = plugin.loss({2: Tokens(x)}, x, {FEATURES: torch.randn(2, 16, 768)})
    assert loss.dtype == torch.float32


def test_a_zero_feature_vector_gives_a_finite_gradient():
    plugin, x = ready(), torch.randn(2, 16, 32, requires_grad=True)
    plugin.loss({2: Tokens(x)}, x, {FEATURES: torch.zeros(2, 16, 768)}).backward()
    assert x.grad.isfinite().all()


def test_alignment_reaches_the_blocks_before_its_depth_and_none_after():
    run = TinyRun({"repa": REPA(depth=2, projector_dim=16)})
    run.losses(run.draws())["repa"].backward()
    reached = [block.attn.qkv.weight.grad is not None for block in run.backbone.blocks]
    assert reached == [True, True, False, False, False, False]


@pytest.mark.parametrize(("width", "parameters"), [(1152, 8_131_328), (1024, 7_869_184), (768, 7_344_896)])
def test_the_projector_has_the_official_number_of_parameters(width, parameters):
    plugin = REPA()
    with torch.device("meta"):
        plugin.setup(DiT(hidden_size=width, depth=12, num_heads=16))
        assert sum(p.numel() for p in plugin.parameters()) == parameters


@pytest.mark.parametrize(("width", "parameters"), [(1152, 7_963_392), (768, 5_309_184)])
def test_the_convolution_has_the_official_number_of_parameters(width, parameters):
    plugin = REPA(projector="conv3")
    with torch.device("meta"):
        plugin.setup(DiT(hidden_size=width, depth=12, num_heads=16))
        assert sum(p.numel() for p in plugin.parameters()) == parameters


def test_the_convolution_sees_the_neighbours_of_a_place_and_no_others():
    plugin, x = ready(projector="conv3"), torch.zeros(1, 16, 32)
    moved = plugin.projectors[0](x.index_fill(1, torch.tensor([5]), 1.0)) - plugin.projectors[0](x)
    assert moved.abs().sum(-1)[0].nonzero().flatten().tolist() == [0, 1, 2, 4, 5, 6, 8, 9, 10]


def test_a_convolution_inside_a_route_is_refused():
    with pytest.raises(DiffxError, match=r"plugins\.repa .*plugins\.tread"):
        TinyRun({"tread": TREAD(0.5, 1, 4), "repa": REPA(3, projector="conv3")})


def test_features_normalised_over_places_keep_the_rest_of_their_mean():
    features = 5 + 2 * torch.randn(2, 400, 3)
    target = ready(spatial_norm=0.6).prepare({FEATURES: features}, None)[FEATURES]
    torch.testing.assert_close(target.std(1), torch.ones(2, 3))
    torch.testing.assert_close(target.mean(1), 0.4 * features.mean(1) / features.std(1), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("settings", [{"projector": "conv5"}, {"spatial_norm": -0.1}, {"spatial_norm": 2.0}])
def test_unknown_projectors_and_shares_outside_their_range_are_refused(settings):
    ((name, value),) = settings.items()
    with pytest.raises(DiffxError, match=f"plugins.repa.{name}={value}"):
        ready(**settings)
