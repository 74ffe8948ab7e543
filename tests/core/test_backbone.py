"""The plain DiT: parameter counts, positions, and options that behave as their names say."""

import pytest
import torch

from diffx.backbone import Backbone, DiT, MaskDiTBackbone, MDTBackbone, REGBackbone, SprintBackbone, SRDiT
from diffx.backbone.layers.position import RelativePositionBias, Rotary, sincos_table
from diffx.backbone.protocol import Memory, state_shape, walk_blocks
from diffx.errors import DiffxError
from diffx.testing import BATCH, tiny_backbone, tiny_mdt
from diffx.tokens import Tokens, gather
from diffx_plugins.mdt import MDT

SIZES = {  # width, blocks, heads (Peebles & Xie 2022, table 1)
    "S": (384, 12, 6),
    "B": (768, 12, 12),
    "L": (1024, 24, 16),
    "XL": (1152, 28, 16),
}


def on_meta(size: str, family=DiT, **options) -> Backbone:
    width, depth, heads = SIZES[size]
    with torch.device("meta"):
        return family(hidden_size=width, depth=depth, num_heads=heads, **options)


def count(module: torch.nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


@pytest.mark.parametrize(
    ("size", "learn_sigma", "parameters"),
    [
        ("S", True, 32_963_360),
        ("B", True, 130_512_416),
        ("L", True, 458_102_816),
        ("XL", True, 675_129_632),
        ("S", False, 32_957_200),
        ("B", False, 130_500_112),
        ("L", False, 458_086_416),
        ("XL", False, 675_111_184),
    ],
)
def test_the_parameter_count_is_the_official_one(size, learn_sigma, parameters):
    assert count(on_meta(size, learn_sigma=learn_sigma)) == parameters


@pytest.mark.parametrize(
    ("decoder", "skips", "training", "training_only"),
    [(4, True, 742.3, 23.9), (2, False, 699.8, 23.9)],
    ids=["v2", "v1"],
)
def test_mdt_xl_has_the_official_parameter_counts_in_millions(decoder, skips, training, training_only):
    options = {"learn_sigma": True, "position": "learned", "relative_bias": True}
    backbone = on_meta("XL", MDTBackbone, decoder_layers=decoder, skips=skips, **options)
    plugin = MDT()
    with torch.device("meta"):
        plugin.setup(backbone)
    assert round(count(plugin) / 1e6, 1) == training_only
    assert round((count(backbone) + count(plugin)) / 1e6, 1) == training


def test_a_fresh_backbone_outputs_exactly_zero():
    fresh = DiT(input_size=8, hidden_size=32, depth=2, num_heads=4)
    out = fresh(torch.randn(2, 4, 8, 8), torch.rand(2), torch.tensor([0, 1]))
    assert not out.any()


@pytest.mark.parametrize("family", [DiT, MDTBackbone])
def test_without_zero_init_modulations_and_output_start_as_every_linear_layer_does(family):
    """The standard deviations of CompVis/tread at S/2: sqrt(2 / (in + out))."""
    fresh = family(
        hidden_size=384,
        depth=2,
        num_heads=6,
        zero_init=False,
        **({"decoder_layers": 1} if family is MDTBackbone else {}),
    )
    for layer, std in [
        (fresh.blocks[0].adaLN_modulation[1], 0.0273),
        (fresh.final_layer.adaLN_modulation[1], 0.0417),
        (fresh.final_layer.linear, 0.0707),
    ]:
        assert layer.weight.std().item() == pytest.approx(std, rel=0.03)


@pytest.mark.parametrize("position", ["sincos", "learned", "rope", "sincos_rope"])
@pytest.mark.parametrize("family", [DiT, MaskDiTBackbone, MDTBackbone, REGBackbone, SprintBackbone, SRDiT])
def test_the_residual_stream_is_float32_in_autocast_whatever_tells_the_position(family, position):
    backbone = family.tiny(position=position)
    x = torch.randn(2, *state_shape(backbone))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        tokens, _ = backbone.embed(x, torch.rand(2), torch.zeros(2, dtype=torch.long), Memory())
    assert tokens.x.dtype == torch.float32


def test_the_first_half_of_the_position_table_tells_the_column_and_the_second_the_row():
    table = sincos_table(8, 3).view(3, 3, 8)
    assert torch.equal(table[0, :, :4], table[2, :, :4])
    assert torch.equal(table[:, 0, 4:], table[:, 2, 4:])
    column = torch.tensor([0.0, 1.0, 2.0])
    torch.testing.assert_close(
        table[0, :, :4], torch.stack([f(column * w) for f in (torch.sin, torch.cos) for w in (1, 0.01)], 1)
    )


def test_the_head_puts_pixels_back_in_the_order_row_column_channel():
    backbone = tiny_backbone(in_channels=2)
    x = torch.randn(1, 2, 8, 8)
    patches = x.unfold(2, 2, 2).unfold(3, 2, 2).permute(0, 2, 3, 4, 5, 1).reshape(1, 16, 8)

    class Copy(torch.nn.Module):
        def forward(self, tokens, cond):
            return patches

    backbone.final_layer = Copy()
    assert torch.equal(backbone.head(Tokens(torch.zeros(1, 16, 32)), torch.zeros(1, 32)), x)


def test_the_position_table_is_trained_only_when_learned():
    assert not tiny_backbone().pos_embed.requires_grad
    assert not tiny_mdt().decoder_pos_embed.requires_grad
    assert tiny_backbone(position="learned").pos_embed.requires_grad
    assert not hasattr(tiny_backbone(position="rope"), "pos_embed")


def test_rotary_positions_stand_beside_the_table_only_where_both_are_asked_for():
    both, table = tiny_backbone(position="sincos_rope"), tiny_backbone()
    assert torch.equal(both.pos_embed, table.pos_embed)
    assert [net.blocks[0].attn.rotary is None for net in (both, table)] == [False, True]


def test_the_norms_of_lightningdit_have_a_scale_and_the_others_none():
    def norms(norm):
        return [key for key, _ in tiny_backbone(norm=norm, depth=1).named_parameters() if "norm" in key]

    assert norms("scaled_rmsnorm") == [
        "blocks.0.norm1.weight",
        "blocks.0.norm2.weight",
        "final_layer.norm_final.weight",
    ]
    assert norms("rmsnorm") == norms("layernorm") == []


OPTIONS = [
    {},
    {"position": "rope"},
    {"relative_bias": True},
    {"qk_norm": True},
    {"norm": "rmsnorm"},
    {"position": "sincos_rope", "norm": "scaled_rmsnorm"},
    {"mlp": "swiglu"},
    {"position": "rope", "relative_bias": True, "qk_norm": True},
]


@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_a_block_does_not_depend_on_the_order_of_its_tokens(options):
    """Each token's place travels in its id, so shuffled tokens give shuffled results."""
    backbone = tiny_mdt(**{"relative_bias": False, **options})
    x, cond = torch.randn(2, 16, 32), torch.randn(2, 32)
    shuffle = torch.stack([torch.randperm(16), torch.randperm(16)])
    shuffled = backbone.blocks[1](gather(x, shuffle), cond, shuffle)
    torch.testing.assert_close(shuffled, gather(backbone.blocks[1](x, cond), shuffle), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("options", [{}, {"position": "rope"}, {"relative_bias": True}], ids=str)
def test_only_rotary_and_relative_bias_tell_a_block_where_tokens_stand(options):
    block = tiny_mdt(**{"relative_bias": False, **options}).blocks[1]
    x, cond = torch.randn(1, 4, 32), torch.randn(1, 32)
    corner, apart = torch.tensor([[0, 1, 4, 5]]), torch.tensor([[0, 3, 12, 15]])
    same = torch.allclose(block(x, cond, corner), block(x, cond, apart), atol=1e-6)
    assert same == (options == {})


def test_rotary_products_depend_on_the_offset_only():
    rotary = Rotary(side=5, head_dim=16)
    q, k = torch.randn(16), torch.randn(16)

    def product(query_at, key_at):
        turned = rotary(torch.stack([q, k])[None, None], torch.tensor([[query_at, key_at]]))
        return turned[0, 0, 0] @ turned[0, 0, 1]

    torch.testing.assert_close(product(0, 7), product(5, 12))
    torch.testing.assert_close(product(6, 13), product(11, 18))
    assert not torch.allclose(product(0, 7), product(0, 8), atol=1e-3)


def test_the_relative_bias_of_two_tokens_depends_on_their_offset_only():
    bias = RelativePositionBias(side=4, heads=2)(None)
    assert bias.shape == (2, 16, 16)
    assert torch.equal(bias[:, 0, 5], bias[:, 5, 10])
    assert torch.equal(bias[:, 1, 0], bias[:, 15, 14])
    assert not torch.equal(bias[:, 0, 1], bias[:, 1, 0])


def test_the_relative_bias_of_missing_tokens_is_gathered_on_both_axes():
    module, ids = RelativePositionBias(side=4, heads=2), torch.tensor([[3, 0, 9], [1, 2, 15]])
    full, some = module(None), module(ids)
    for b in range(2):
        assert torch.equal(some[b], full[:, ids[b]][:, :, ids[b]])


def test_the_long_skips_join_the_halves_of_the_encoder_last_in_first_out():
    backbone = tiny_mdt(depth=8, skips=True)
    assert backbone.skips == {3: 3, 4: 2, 5: 1, 6: 0, 7: 0}


def test_an_input_skip_carries_the_embedded_tokens():
    backbone = tiny_mdt(skips=True)
    x, t, y = torch.randn(BATCH, 4, 8, 8), torch.rand(BATCH), torch.arange(BATCH)
    tokens, _ = backbone.embed(x, t, y, Memory())
    before, cond = walk_blocks(backbone, x, t, y, until=4)
    with_input, without = (Memory(states={0: state}) for state in (tokens.x, torch.zeros_like(tokens.x)))
    after = backbone.run_block(4, before, cond, with_input)
    assert torch.equal(after.x, walk_blocks(backbone, x, t, y, until=5)[0].x)
    assert not torch.allclose(after.x, backbone.run_block(4, before, cond, without).x, atol=1e-3)


def test_every_sample_is_computed_alone():
    backbone = tiny_backbone()
    x, t, y = torch.randn(BATCH, 4, 8, 8), torch.rand(BATCH), torch.arange(BATCH)
    whole = backbone(x, t, y)
    for i in range(BATCH):
        one = slice(i, i + 1)
        torch.testing.assert_close(backbone(x[one], t[one], y[one]), whole[one], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"patch_size": 3}, ["patch_size=3", "8x8", "[1, 2, 4, 8]"]),
        ({"patch_size": 0}, ["patch_size=0"]),
        ({"num_heads": 5}, ["hidden_size=32", "num_heads=5", "[1, 2]"]),
        ({"num_heads": 0}, ["num_heads=0"]),
        ({"decoder_layers": 6}, ["decoder_layers=6", "depth=6"]),
        ({"decoder_layers": -1}, ["decoder_layers=-1"]),
        ({"decoder_layers": 0}, ["decoder_layers=0", "depth=6"]),
        ({"decoder_layers": 1, "skips": True}, ["skips=true", "decoder_layers=2"]),
        ({"position": "sin"}, ["position=sin", "sincos, learned, rope, sincos_rope"]),
        ({"norm": "batchnorm"}, ["norm=batchnorm", "layernorm, rmsnorm, scaled_rmsnorm"]),
        ({"mlp": "relu"}, ["mlp=relu", "gelu, swiglu"]),
    ],
    ids=str,
)
def test_sizes_that_do_not_fit_are_refused_with_the_value_and_what_to_type(options, expected):
    with pytest.raises(DiffxError) as error:
        tiny_mdt(**options)
    for words in expected:
        assert words in str(error.value)
