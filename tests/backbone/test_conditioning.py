"""The conditionings of DiT's ablation: each against its formula, and their costs against the paper's arithmetic."""

import pytest
import torch
import torch.nn.functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from diffx.backbone import DiT, REGBackbone
from diffx.backbone.layers.conditioning import BLOCKS
from diffx.backbone.protocol import Memory, walk_blocks
from diffx.errors import DiffxError
from diffx.testing import BATCH, TinyRun, tiny_backbone
from diffx_plugins.self_flow import SelfFlow
from diffx_plugins.tread import TREAD

D = 32
WIDTH, DEPTH = 1152, 28  # of XL


def inputs():
    rng = torch.Generator().manual_seed(7)
    return torch.randn(BATCH, 4, 8, 8, generator=rng), torch.rand(BATCH, generator=rng), torch.arange(BATCH)


def embedded(net):
    x, t, y = inputs()
    tokens, cond = net.embed(x, t, y, Memory())
    return tokens.x, cond, net.t_embedder(t), net.y_embedder(y)


def norm(x):
    return F.layer_norm(x, x.shape[-1:], eps=1e-6)


@torch.no_grad()
def test_adaln_shifts_and_scales_the_normalised_tokens_and_gates_nothing():
    net = tiny_backbone(conditioning="adaln")
    x, cond, time, label = embedded(net)
    assert torch.equal(cond, time + label)
    block = net.blocks[0]
    parts = (F.silu(cond) @ block.adaLN_modulation[1].weight.T + block.adaLN_modulation[1].bias).view(BATCH, 4, 1, D)
    shift_a, scale_a, shift_m, scale_m = parts.unbind(1)
    wanted = x + block.attn(norm(x) * (1 + scale_a) + shift_a, None)
    wanted = wanted + block.mlp(norm(wanted) * (1 + scale_m) + shift_m)
    torch.testing.assert_close(block(x, cond), wanted)


@torch.no_grad()
def test_post_norm_is_adaln_zero_with_the_norms_behind_the_sums_and_the_same_parameters():
    net, pre = tiny_backbone(conditioning="post_norm"), tiny_backbone()
    net.load_state_dict(pre.state_dict(), strict=True)
    x, cond, *_ = embedded(net)
    block = net.blocks[0]
    parts = (F.silu(cond) @ block.adaLN_modulation[1].weight.T + block.adaLN_modulation[1].bias).view(BATCH, 6, 1, D)
    shift_a, scale_a, gate_a, shift_m, scale_m, gate_m = parts.unbind(1)
    wanted = norm(x + gate_a * block.attn(x, None)) * (1 + scale_a) + shift_a
    wanted = norm(wanted + gate_m * block.mlp(wanted)) * (1 + scale_m) + shift_m
    torch.testing.assert_close(block(x, cond), wanted)
    assert not torch.allclose(pre.blocks[0](x, cond), wanted, atol=1e-2)


@torch.no_grad()
def test_cross_attention_weighs_the_values_of_time_and_label_for_each_head_of_each_token():
    net = tiny_backbone(conditioning="cross_attention")
    x, cond, time, label = embedded(net)
    attend = net.blocks[0].cross_attn
    queries = attend.q(x).view(BATCH, 16, 4, 8)
    keys_and_values = [attend.kv(vector).view(BATCH, 1, 2, 4, 8) for vector in (time, label)]
    products = torch.stack([(queries * kv[:, :, 0]).sum(-1) / 8**0.5 for kv in keys_and_values])
    weights = products.softmax(0).unsqueeze(-1)
    mixed = weights[0] * keys_and_values[0][:, :, 1] + weights[1] * keys_and_values[1][:, :, 1]
    torch.testing.assert_close(attend(x, torch.stack([time, label], 1)), attend.proj(mixed.flatten(2)))
    assert torch.equal(cond, torch.cat([time, label], 1))


@torch.no_grad()
def test_a_block_of_cross_attention_stands_between_self_attention_and_mlp():
    net = tiny_backbone(conditioning="cross_attention")
    x, cond, time, label = embedded(net)
    block = net.blocks[0]
    for scaled in (block.norm1, block.norm2, block.norm3):
        scaled.weight.mul_(1.5)
    wanted = x + block.attn(1.5 * norm(x) + block.norm1.bias, None)
    wanted = wanted + block.cross_attn(1.5 * norm(wanted) + block.norm2.bias, torch.stack([time, label], 1))
    wanted = wanted + block.mlp(1.5 * norm(wanted) + block.norm3.bias)
    torch.testing.assert_close(block(x, cond), wanted)


@torch.no_grad()
def test_in_context_time_and_label_are_the_last_two_tokens_and_leave_before_the_head():
    net = tiny_backbone(conditioning="in_context")
    x, cond, time, label = embedded(net)
    assert x.shape == (BATCH, 18, D)
    assert torch.equal(x[:, 16:], torch.stack([time, label], 1))
    assert cond.shape == (BATCH, 0)
    tokens, _ = walk_blocks(net, *inputs())
    patches = net.final_layer.linear(net.final_layer.norm_final(tokens.x[:, :16]))
    image = patches.view(BATCH, 4, 4, 2, 2, 4).permute(0, 5, 1, 3, 2, 4).reshape(BATCH, 4, 8, 8)
    torch.testing.assert_close(net(*inputs()), image)


@pytest.mark.parametrize("conditioning", BLOCKS)
def test_a_fresh_network_outputs_zero_and_is_built_of_the_blocks_that_its_conditioning_names(conditioning):
    net = DiT.tiny(conditioning=conditioning)
    assert not net(*inputs()).any()
    x, cond, *_ = embedded(net)
    identity = all(torch.equal(block(x, cond), x) for block in (*net.blocks, net.new_block()))
    assert identity == net.starts_as_identity == conditioning.startswith("adaln_")
    raw = DiT.tiny(conditioning=conditioning, zero_init=False)
    assert raw(*inputs()).abs().max() > 0.01


def test_a_fresh_post_norm_block_is_its_norms():
    net = DiT.tiny(conditioning="post_norm")
    x, cond, *_ = embedded(net)
    torch.testing.assert_close(net.blocks[0](x, cond), norm(norm(x)))


def on_meta(conditioning: str) -> DiT:
    with torch.device("meta"):
        return DiT(hidden_size=WIDTH, depth=DEPTH, learn_sigma=True, conditioning=conditioning)


@pytest.mark.parametrize(
    ("conditioning", "published"),
    [("in_context", 119.4), ("cross_attention", 137.6), ("adaln", 118.6), ("adaln_zero", 118.6)],
)
def test_the_forward_of_xl_costs_what_the_papers_ablation_says_in_billions_of_multiply_adds(conditioning, published):
    """Figure 5 of the paper. adaLN's own products are 0.15 and 0.22 of it: no more than its rounding."""
    net = on_meta(conditioning)
    with torch.device("meta"), sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        net(torch.zeros(1, 4, 32, 32), torch.zeros(1), torch.zeros(1, dtype=torch.long))
    assert counter.get_total_flops() / 2e9 == pytest.approx(published, abs=0.1)


def test_the_parameters_differ_by_what_each_conditioning_adds_to_a_block():
    def count(conditioning):
        return sum(p.numel() for p in on_meta(conditioning).parameters())

    layer = WIDTH * WIDTH + WIDTH
    norms, head = 2 * WIDTH, 2 * layer - 2 * WIDTH  # scale and shift of a norm; a plain head has a norm's for a layer
    plain = count("in_context")
    assert count("adaln_zero") - plain == DEPTH * (6 * layer - 2 * norms) + head
    assert count("adaln") == count("adaln_zero") - DEPTH * 2 * layer
    assert count("post_norm") == count("adaln_zero")
    assert count("cross_attention") - plain == DEPTH * (4 * layer + norms)


def test_a_third_of_xl_is_adaln_zeros_modulation_and_the_shared_one_has_four_percent_of_it():
    net = on_meta("adaln_zero")
    modulation = sum(p.numel() for block in net.blocks for p in block.adaLN_modulation.parameters())
    assert modulation / sum(p.numel() for p in net.parameters()) == pytest.approx(0.33, abs=0.005)
    single = on_meta("adaln_single")
    tables = sum(p.numel() for block in single.blocks for p in block.adaLN_modulation.parameters())
    shared = sum(p.numel() for p in single.shared_modulation.parameters())
    assert (tables + shared) / modulation == pytest.approx(0.0365, abs=0.001)


def test_time_and_label_in_the_stream_are_never_routed_around():
    run = TinyRun({"tread": TREAD(0.5, 1, 3)}, tiny_backbone(conditioning="in_context"))
    (view,) = run.plan.views
    assert view.kept == {"tread": (8 + 2,)}
    kept = run.draws().aux["tread"]["keep"]
    assert torch.equal(kept[:, -2:], torch.tensor([[16, 17]]).expand(BATCH, 2))


@pytest.mark.parametrize("conditioning", ["in_context", "cross_attention"])
def test_times_of_each_token_are_refused_where_a_sample_has_one(conditioning):
    with pytest.raises(DiffxError, match=r"plugins\.it gives each token a time of its own, and this backbone \(DiT\)"):
        TinyRun({"it": SelfFlow(depth=2, teacher_depth=4)}, tiny_backbone(conditioning=conditioning))


@torch.no_grad()
@pytest.mark.parametrize("conditioning", ["adaln", "post_norm"])
def test_times_of_each_token_that_are_all_alike_are_the_samples_time(conditioning):
    net = tiny_backbone(conditioning=conditioning)
    x, t, y = inputs()
    torch.testing.assert_close(net(x, t[:, None].expand(-1, 16), y), net(x, t, y))


@pytest.mark.parametrize(
    "options", [{"position": "rope"}, {"qk_norm": True, "norm": "rmsnorm", "mlp": "swiglu"}], ids=str
)
@pytest.mark.parametrize("conditioning", BLOCKS)
def test_the_other_options_of_a_block_go_with_every_conditioning(conditioning, options):
    net = tiny_backbone(conditioning=conditioning, **options)
    assert net(*inputs()).isfinite().all()
    assert not torch.allclose(net(*inputs()), tiny_backbone(conditioning=conditioning)(*inputs()), atol=1e-3)


def test_a_backbone_of_another_family_refuses_a_conditioning_that_it_has_not():
    with pytest.raises(DiffxError, match=r"in_context is for the plain DiT.*one of adaln_zero, adaln_single"):
        REGBackbone.tiny(conditioning="in_context")
