"""JiT against a second formula, its label tokens, and its objective."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from diffx.backbone import JiT
from diffx.config.compose import compose_config
from diffx.config.target import make
from diffx.errors import DiffxError
from diffx.testing import BATCH, TinyRun, tiny_of
from diffx_plugins.tread import TREAD


@pytest.mark.parametrize(("size", "millions"), [("b", 131), ("l", 459), ("h", 953)])
def test_the_trained_parameters_are_as_many_as_the_papers(size, millions):
    with torch.device("meta"):
        net = make(compose_config(["+experiment=jit_b", f"backbone=jit_{size}"]).backbone)
    assert sum(p.numel() for p in net.parameters() if p.requires_grad) / 1e6 == pytest.approx(millions, abs=0.5)


def inputs() -> tuple[Tensor, Tensor, Tensor]:
    rng = torch.Generator().manual_seed(0)
    return torch.randn(BATCH, 4, 8, 8, generator=rng), torch.rand(BATCH, generator=rng), torch.arange(BATCH)


@torch.no_grad()
def test_a_patch_is_embedded_by_two_linear_layers():
    net, (x, _, _) = tiny_of(JiT), inputs()
    patches = x.unfold(2, 2, 2).unfold(3, 2, 2).permute(0, 2, 3, 1, 4, 5).flatten(3).flatten(1, 2)  # (B, N, C·2·2)
    narrow = F.linear(patches, net.x_embedder.down.weight.flatten(1))
    wanted = F.linear(narrow, net.x_embedder.up.weight.flatten(1), net.x_embedder.up.bias)
    torch.testing.assert_close(net.x_embedder(x), wanted, rtol=1e-4, atol=1e-5)


def rms(x: Tensor, weight: Tensor) -> Tensor:
    return x / (x.square().mean(-1, keepdim=True) + 1e-6).sqrt() * weight


def turn(x: Tensor, side: int) -> Tensor:
    """Queries or keys (B, H, N, d): of tokens on the grid, the first half of d by the row, the second by the column."""
    quarter = x.shape[-1] // 4
    place = torch.arange(side * side)
    angles = [p[:, None] * 10000.0 ** (-torch.arange(quarter) / quarter) for p in (place // side, place % side)]
    angle = torch.cat(angles, 1)
    spun = torch.view_as_complex(x[:, :, : side * side].unflatten(-1, (-1, 2)).contiguous()) * torch.polar(
        torch.ones_like(angle), angle
    )
    return torch.cat([torch.view_as_real(spun).flatten(-2), x[:, :, side * side :]], 2)


def formula(net: JiT, x: Tensor, t: Tensor, y: Tensor) -> Tensor:
    """The whole network, written out."""
    label = net.y_embedder.embedding_table.weight[y]
    cond = F.silu(net.t_embedder(t) + label)
    tokens = net.x_embedder(x) + net.pos_embed
    for depth, block in enumerate(net.blocks):
        if depth == 2:
            tokens = torch.cat([tokens, label[:, None] + net.context_pos_embed], 1)
        shift, scale, gate, shift2, scale2, gate2 = block.adaLN_modulation[1](cond)[:, None].chunk(6, -1)
        normed = rms(tokens, block.norm1.weight) * (1 + scale) + shift
        q, k, v = (part.unflatten(-1, (4, -1)).transpose(1, 2) for part in block.attn.qkv(normed).chunk(3, -1))
        q = turn(rms(q, block.attn.q_norm.weight), net.side)
        k = turn(rms(k, block.attn.k_norm.weight), net.side)
        attention = (q @ k.transpose(2, 3) / q.shape[-1] ** 0.5).softmax(-1)
        tokens = tokens + gate * block.attn.proj((attention @ v).transpose(1, 2).flatten(2))
        up, value = block.mlp.w12(rms(tokens, block.norm2.weight) * (1 + scale2) + shift2).chunk(2, -1)
        tokens = tokens + gate2 * block.mlp.w3(up * torch.sigmoid(up) * value)
    shift, scale = net.final_layer.adaLN_modulation[1](cond)[:, None].chunk(2, -1)
    patches = net.final_layer.linear(rms(tokens[:, :16], net.final_layer.norm_final.weight) * (1 + scale) + shift)
    return patches.view(-1, 4, 4, 2, 2, 4).permute(0, 5, 1, 3, 2, 4).reshape(-1, 4, 8, 8)


@torch.no_grad()
def test_the_forward_is_the_papers_formula():
    net = tiny_of(JiT)
    torch.testing.assert_close(net(*inputs()), formula(net, *inputs()), rtol=1e-4, atol=1e-5)


def test_label_tokens_join_at_their_block_and_a_route_may_not_lie_across():
    run = TinyRun({"tread": TREAD(0.5, 2, 4)}, tiny_of(JiT))
    assert run.plan.views[0].tokens == (16, 16, 11, 11, 11, 19, 19)
    assert run.losses(run.draws())["total"].isfinite()
    with pytest.raises(DiffxError, match=r"plugins\.tread narrows blocks on both sides of block 2"):
        TinyRun({"tread": TREAD(0.5, 1, 4)}, tiny_of(JiT))


@torch.no_grad()
def test_without_label_tokens_there_is_no_border():
    net = tiny_of(JiT, context_tokens=0)
    assert net.borders == ()
    assert net(*inputs()).shape == (BATCH, 4, 8, 8)


@pytest.mark.parametrize("setting", [{"context_start": 6}, {"bottleneck": 0}, {"context_tokens": -1}])
def test_sizes_that_do_not_fit_are_refused_with_their_key(setting):
    with pytest.raises(DiffxError, match=f"backbone.{next(iter(setting))}="):
        JiT.tiny(**setting)
