"""MaskDiT beside its recordings: what is visible, sizes, who may have to do with the narrow part, refusals."""

import pytest
import torch

from diffx.assemble.flops import count_flops
from diffx.backbone import MaskDiTBackbone
from diffx.backbone.protocol import Memory
from diffx.backbone.teacher import NetworkTeacher
from diffx.errors import DiffxError
from diffx.objective import EDM
from diffx.planner import make_plan
from diffx.plugin import Plugin
from diffx.testing import BATCH, TinyRun, tiny_backbone, tiny_of
from diffx.tokens import Tokens
from diffx_plugins.identity import Identity
from diffx_plugins.maskdit import MaskDiT
from diffx_plugins.repa import REPA
from diffx_plugins.stochastic_depth import StochasticDepth
from diffx_plugins.tread import TREAD

LAST = 4  # the narrowing block of the tiny network


def started(**others: Plugin) -> TinyRun:
    return TinyRun({"maskdit": MaskDiT(), **others}, tiny_of(MaskDiTBackbone))


def test_the_parameters_are_as_many_as_the_official_networks_and_the_flops_the_measured_share():
    """730.5M with the mask token, which is the plugin's."""
    with torch.device("meta"):
        net, plugin = MaskDiTBackbone(), MaskDiT()
        plugin.objective = EDM()
        plugin.setup(net)
    count = sum(p.numel() for p in net.parameters()) + plugin.mask_token.numel()
    assert count / 1e6 == pytest.approx(730.5, abs=0.06)
    flops = count_flops(net, {"maskdit": plugin}, EDM(), make_plan(net, {"maskdit": plugin}, ()), {})
    assert flops.relative == pytest.approx(0.552, abs=0.003)
    plain = count_flops(net, {}, EDM(), make_plan(net, {}, ()), {})
    assert plain.relative == pytest.approx(1.060, abs=0.003)


@torch.no_grad()
def test_mask_tokens_stand_in_the_decoder_where_the_encoder_saw_nothing():
    """A second formula: a loop over samples, the encoder on the kept rows, the decoder on all."""
    run = started()
    net, plugin, draws = run.backbone, run.plugins["maskdit"], run.draws()
    keep = draws.aux["maskdit"]["keep"]
    x_t = run.objective.noised(draws.x, draws.noise["main"], draws.t)
    tokens, cond = net.embed(x_t, draws.t, draws.y["main"], Memory())
    filled = plugin.mask_token.repeat(BATCH, 16, 1)
    for k in range(BATCH):
        row = tokens.x[k : k + 1, keep[k]]
        for block in net.blocks[: LAST + 1]:
            row = block(row, cond[k : k + 1])
        filled[k, keep[k]] = row[0]
    x = filled + net.decoder_pos_embed
    for block in net.blocks[LAST + 1 :]:
        x = block(x, cond)
    out, target = net.head(Tokens(x), cond), draws.noise["main"] - draws.x
    seen = torch.zeros(BATCH, 16).scatter(1, keep, 1.0).view(BATCH, 1, 4, 4)
    seen = seen.repeat_interleave(2, 2).repeat_interleave(2, 3).expand_as(out).bool()
    torch.testing.assert_close(run.losses(draws)["denoise"], (out - target)[seen].square().mean())


@torch.no_grad()
def test_what_is_masked_is_compared_with_the_patches_of_the_noised_input_in_their_own_units():
    run = started()
    draws = run.draws()
    aux, plugin = draws.aux["maskdit"], run.plugins["maskdit"]
    data = torch.randn(BATCH, 4, 8, 8, generator=torch.Generator().manual_seed(1))
    out = (aux["noisy"] - data) / aux["t"].view(-1, 1, 1, 1)  # the velocity from which the denoised data is `data`
    errors = []
    for b in range(BATCH):
        for place in set(range(16)) - set(aux["keep"][b].tolist()):
            rows, columns = slice(2 * (place // 4), 2 * (place // 4) + 2), slice(2 * (place % 4), 2 * (place % 4) + 2)
            patch = aux["noisy"][b, :, rows, columns]
            patch = (patch - patch.mean()) / (patch.var() + 1e-6).sqrt()
            errors.append((data[b, :, rows, columns] - patch).square().mean())
    torch.testing.assert_close(plugin.loss({}, out, aux), torch.stack(errors).mean(), rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_with_nothing_masked_the_losses_are_those_of_the_plain_pass():
    run = TinyRun({"maskdit": MaskDiT(mask_ratio=0.0)}, tiny_of(MaskDiTBackbone))
    draws = run.draws()
    x_t = run.objective.noised(draws.x, draws.noise["main"], draws.t)
    plain = run.objective.loss(run.backbone(x_t, draws.t, draws.y["main"]), draws.x, draws.noise["main"], draws.t)
    torch.testing.assert_close(run.losses(draws)["total"], plain.mean())


@torch.no_grad()
def test_the_null_label_adds_nothing_to_the_time():
    net = tiny_of(MaskDiTBackbone)
    x, t = torch.randn(2, 4, 8, 8), torch.tensor([0.2, 0.7])
    _, cond = net.embed(x, t, torch.tensor([10, 10]), Memory())
    assert torch.equal(cond, net.t_embedder(t))


def test_features_are_aligned_inside_the_masked_encoder():
    run = started(repa=REPA(depth=2))
    assert run.losses(run.draws())["repa"].isfinite()


def test_a_route_inside_the_encoder_nests():
    run = started(tread=TREAD(0.5, 1, 2))
    assert run.plan.views[0].kept == {"maskdit": (8,), "tread": (4,)}


@pytest.mark.parametrize(
    "other",
    [REPA(depth=5), TREAD(0.5, 1, 4), TREAD(0.5, 2, 5), Identity(2, 4), StochasticDepth(0.5)],
    ids=["a read", "a route that ends there", "a route across", "no block", "fewer samples"],
)
def test_what_has_to_do_with_the_narrow_part_is_refused_with_where_to_end(other):
    with pytest.raises(DiffxError, match=r"plugins\.other .*another width; end plugins\.other"):
        TinyRun({"other": other}, tiny_of(MaskDiTBackbone))


def test_a_route_of_the_decoder_alone_is_one():
    run = TinyRun({"tread": TREAD(0.5, 5, 5)}, tiny_of(MaskDiTBackbone))
    assert run.losses(run.draws())["total"].isfinite()


def test_a_teacher_in_the_narrow_part_is_refused():
    net = tiny_of(MaskDiTBackbone)
    x, t, y = torch.randn(2, 4, 8, 8), torch.rand(2), torch.arange(2)
    assert NetworkTeacher(net)(x, t, y, 4).shape == (2, 16, 32)
    with pytest.raises(DiffxError, match="type a teacher's depth of at most 4"):
        NetworkTeacher(net)(x, t, y, 5)


def test_settings_that_are_none_are_refused_with_what_to_type():
    with pytest.raises(DiffxError, match=r"mask_ratio=1\.0 is the share .* type a number in \[0, 1\)"):
        MaskDiT(mask_ratio=1.0)
    with pytest.raises(DiffxError, match=r"type backbone\._target_=diffx\.backbone\.MaskDiTBackbone"):
        TinyRun({"maskdit": MaskDiT()}, tiny_backbone())
    with pytest.raises(DiffxError, match=r"decoder_width=24 with decoder_heads=5 .* type for instance 512, 16, 8"):
        MaskDiTBackbone.tiny(decoder_heads=5)
    with pytest.raises(DiffxError, match=r"type backbone\.conditioning=adaln_zero"):
        MaskDiTBackbone.tiny(conditioning="adaln_single")
