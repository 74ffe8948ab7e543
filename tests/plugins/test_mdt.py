"""MDT: a second, masked pass whose missing tokens the side-interpolater fills in before the decoder."""

import pytest
import torch

from diffx.backbone.protocol import Memory
from diffx.errors import DiffxError
from diffx.step import Draws, walk_with_plugins
from diffx.testing import TinyRun, tiny_backbone, tiny_mdt
from diffx_plugins.mdt import MDT

VERSIONS = {
    "v1": {"position": "learned", "relative_bias": True},
    "v2": {"position": "learned", "relative_bias": True, "skips": True},
}


def masked_pass(run: TinyRun, draws: Draws) -> torch.Tensor:
    x_t = run.objective.noised(draws.x, draws.noise["masked"], draws.t)
    return walk_with_plugins(run.backbone, run.plan.views[1], run.plugins, x_t, draws.t, draws.y["masked"], draws.aux)[
        0
    ]


def masked_pass_by_hand(run: TinyRun, draws: Draws) -> torch.Tensor:
    """The masked forward one sample at a time, straight from section 3 of the paper."""
    backbone, plugin = run.backbone, run.plugins["mdt"]
    x_t = run.objective.noised(draws.x, draws.noise["masked"], draws.t)
    tokens, cond = backbone.embed(x_t, draws.t, draws.y["masked"], Memory())
    outputs = []
    for b in range(4):
        c, keep, embedded = cond[b : b + 1], draws.aux["mdt"]["keep"][b], tokens.x[b : b + 1]
        x, outs = embedded[:, keep], []
        for depth in range(4):
            skip = outs[3 - depth] if depth >= 2 and backbone.skips else None
            x = backbone.blocks[depth](x, c, keep[None], skip)
            outs.append(x)
        x = [x[0, keep.tolist().index(i)] if i in keep else plugin.mask_token[0, 0] for i in range(16)]
        x = torch.stack(x)[None] + backbone.decoder_pos_embed
        side = plugin.side_block(x, c)
        x = torch.stack([x[0, i] if i in keep else side[0, i] for i in range(16)])[None]
        for depth in (4, 5):
            x = backbone.blocks[depth](x, c, None, embedded if backbone.skips else None)
        outputs.append(backbone.head(tokens._replace(x=x), c))
    return torch.cat(outputs)


@pytest.mark.parametrize("version", VERSIONS)
def test_the_masked_pass_and_its_gradients_equal_another_formula(version):
    run = TinyRun({"mdt": MDT()}, tiny_mdt(**VERSIONS[version]))
    draws = run.draws()
    ours, other = masked_pass(run, draws), masked_pass_by_hand(run, draws)
    torch.testing.assert_close(ours, other, rtol=1e-4, atol=1e-5)
    trained = [p for m in (run.backbone, run.plugins["mdt"]) for p in m.parameters() if p.requires_grad]
    target = torch.randn(ours.shape)
    gradients = (torch.autograd.grad((out - target).square().mean(), trained) for out in (ours, other))
    for mine, theirs in zip(*gradients, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-3, atol=1e-5)


def restored(run: TinyRun, draws: Draws) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """What enters restore() at kept places, what leaves it everywhere, and which places are masked."""
    plugin, backbone = run.plugins["mdt"], run.backbone
    outer, cond = backbone.embed(draws.x, draws.t, draws.y["masked"], Memory())
    inner = plugin.drop(outer, draws.aux["mdt"])
    out = plugin.restore(inner, outer, cond, draws.aux["mdt"])
    masked = torch.ones(4, 16).scatter(1, draws.aux["mdt"]["keep"], 0.0).bool()
    assert out.ids is None
    return outer.x, out.x, masked


def test_kept_tokens_come_back_bit_for_bit_and_masked_ones_from_the_side_block():
    run = TinyRun({"mdt": MDT()}, tiny_mdt(relative_bias=False))
    draws = run.draws()
    inside, out, masked = restored(run, draws)
    assert torch.equal(out[~masked], inside[~masked])
    with torch.no_grad():
        run.plugins["mdt"].side_block.mlp.fc2.bias += 1
    _, other, _ = restored(run, draws)
    assert torch.equal(other[~masked], out[~masked])
    assert (other[masked] != out[masked]).any(dim=-1).all()


def test_the_side_block_reads_the_kept_tokens():
    run = TinyRun({"mdt": MDT()}, tiny_mdt(relative_bias=False))
    draws = run.draws()
    _, out, masked = restored(run, draws)
    _, other, _ = restored(run, draws._replace(x=draws.x + 1))
    assert not torch.allclose(out[masked], other[masked], atol=1e-3)


def test_the_encoder_never_sees_masked_places_and_without_skips_neither_does_the_decoder():
    """Noise at masked places changes nothing of the masked pass, and everything with MDTv2's input skips."""
    for version, unchanged in (("v1", True), ("v2", False)):
        run = TinyRun({"mdt": MDT()}, tiny_mdt(**VERSIONS[version]))
        draws = run.draws()
        masked = torch.ones(4, 16).scatter(1, draws.aux["mdt"]["keep"], 0.0).view(4, 1, 4, 4)
        other = draws.noise | {"masked": draws.noise["masked"] + masked.repeat_interleave(2, 2).repeat_interleave(2, 3)}
        out = masked_pass(run, draws._replace(noise=other))
        assert torch.allclose(out, masked_pass(run, draws), atol=1e-6) == unchanged


def test_the_ordinary_pass_and_sampling_never_touch_the_training_only_modules():
    run = TinyRun({"mdt": MDT()}, tiny_mdt(relative_bias=False))
    draws = run.draws()
    before = run.losses(draws)["denoise"]
    with torch.no_grad():
        for parameter in run.plugins["mdt"].parameters():
            parameter.fill_(float("nan"))
    assert torch.equal(run.losses(draws)["denoise"], before)
    assert run.losses(draws)["masked/denoise"].isnan()


def test_the_decoder_position_is_part_of_the_plain_forward():
    backbone = tiny_mdt()
    x, t, y = torch.randn(2, 4, 8, 8), torch.rand(2), torch.tensor([0, 1])
    out = backbone(x, t, y)
    with torch.no_grad():
        backbone.decoder_pos_embed.zero_()
    assert not torch.allclose(backbone(x, t, y), out, atol=1e-3)


def test_the_masked_loss_is_on_all_tokens():
    run = TinyRun({"mdt": MDT()}, tiny_mdt(relative_bias=False))
    draws = run.draws()
    error = masked_pass(run, draws) - (draws.noise["masked"] - draws.x)
    torch.testing.assert_close(run.losses(draws)["masked/denoise"], error.square().mean())


def test_the_mask_ratio_is_the_share_removed():
    run = TinyRun({"mdt": MDT(0.3)}, tiny_mdt(relative_bias=False))
    assert run.plan.views[1].kept["mdt"] == (11,)
    assert run.draws().aux["mdt"]["keep"].shape == (4, 11)


def test_an_interval_of_ratios_becomes_four_with_the_same_mean():
    rates = MDT([0.3, 0.5]).rate
    assert len(rates) == 4
    assert abs(sum(rates) / 4 - 0.4) < 1e-12
    assert min(rates) > 0.3
    assert max(rates) < 0.5


@pytest.mark.parametrize("ratio", [0, 1, -0.3, 1.2, (0.5, 0.3), (0.3, 1.0), float("nan")])
def test_a_mask_ratio_that_is_no_share_is_refused(ratio):
    with pytest.raises(DiffxError, match=r"plugins.mdt.mask_ratio="):
        MDT(ratio)


def test_a_backbone_without_a_decoder_is_refused_with_what_to_type():
    with pytest.raises(DiffxError, match=r"_target_=diffx.backbone.MDTBackbone"):
        MDT().setup(tiny_backbone())
