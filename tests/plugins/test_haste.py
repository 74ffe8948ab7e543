"""HASTE: attention and tokens of an encoder, until a step."""

from types import SimpleNamespace

import pytest
import timm
import torch

from diffx.assemble.services import Surroundings
from diffx.errors import DiffxError
from diffx.testing import TinyRun, tiny_backbone
from diffx_plugins.haste import HASTE, attention_distance
from diffx_plugins.haste.attention import Attention, AttentionEncoder
from diffx_plugins.stochastic_depth import StochasticDepth
from diffx_plugins.tread import TREAD


def softmax_of_an_attention_layer(block, x):
    """The attention (B, H, N, N) of a timm block on its input, written out."""
    q, k, _ = block.attn.qkv(block.norm1(x)).chunk(3, dim=-1)
    q, k = (part.unflatten(-1, (block.attn.num_heads, -1)).transpose(1, 2) for part in (q, k))
    return (q @ k.transpose(-2, -1) / q.shape[-1] ** 0.5).softmax(-1)


@torch.no_grad()
def test_the_encoders_logits_are_those_of_its_last_four_layers_without_the_class_token():
    torch.manual_seed(0)
    sizes = {"img_size": 16, "patch_size": 4, "embed_dim": 32, "depth": 5, "num_heads": 2, "num_classes": 0}
    network, images = timm.models.VisionTransformer(**sizes).eval(), torch.randn(2, 3, 16, 16)

    class Encoder:
        def __call__(self, image):
            return network.forward_features(image)[:, 1:]

    encoder = Encoder()
    encoder.network = network
    tokens, logits = AttentionEncoder(encoder)(images)
    assert torch.equal(tokens, encoder(images))
    assert logits.shape == (2, 4, 2, 16, 16)
    x = network._pos_embed(network.patch_embed(images))
    for depth, block in enumerate(network.blocks):
        if depth:
            patches = softmax_of_an_attention_layer(block, x)[:, :, 1:, 1:]
            expected = patches / patches.sum(-1, keepdim=True)
            torch.testing.assert_close(logits[:, depth - 1].softmax(-1), expected, rtol=1e-4, atol=1e-6)
        x = block(x)


@pytest.mark.parametrize("name", ["embedded", "dinov3_vitb16"])
def test_an_encoder_without_readable_attention_is_refused(name):
    around = Surroundings(SimpleNamespace(side=16), 256)
    with pytest.raises(DiffxError, match=f"encoder {name} has no attention"):
        Attention().check(name, around)


@pytest.mark.parametrize(
    ("blocks", "attends", "reads"), [(28, (4, 5, 6, 7), (8,)), (12, (4, 5, 6, 7), (8,)), (6, (1, 2, 3, 4), (5,))]
)
def test_by_default_blocks_four_to_seven_attend_like_the_teacher_and_the_tokens_behind_are_aligned(
    blocks, attends, reads
):
    plugin = HASTE(projector_dim=16)
    plugin.setup(tiny_backbone(depth=blocks))
    assert (plugin.attends, plugin.reads) == (attends, reads)


def test_the_distance_is_the_entropy_where_both_attend_alike_and_heads_that_one_lacks_do_not_count():
    q, k = torch.randn(2, 3, 5, 4), torch.randn(2, 3, 5, 4)
    logits = q @ k.transpose(-2, -1) / 2
    more = torch.cat([logits, torch.randn(2, 1, 5, 5)], dim=1)
    rows = logits.softmax(-1)
    torch.testing.assert_close(attention_distance(q, k, more), -(rows * rows.log()).sum(-1).mean())


def test_from_its_step_on_nothing_of_it_is_there():
    plugin = HASTE()
    plugin.stop = 10
    run = TinyRun({"it": plugin})
    first, then = run.model.phases
    assert (first.start, then.start) == (0, 10)
    assert "attention/dinov2_vitb14" in first.plan.needs
    assert then.plan.needs == ()
    assert not then.plan.views[0].attends


@pytest.mark.parametrize("other", [TREAD(0.5, 1, 4), StochasticDepth()])
def test_attention_over_a_part_of_tokens_or_samples_is_refused(other):
    with pytest.raises(DiffxError, match=r"plugins\.it .*plugins\.other"):
        TinyRun({"it": HASTE(), "other": other})


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"blocks": (6,)}, r"blocks=\[6\]"),
        ({"blocks": ()}, r"blocks=\[\]"),
        ({"blocks": (0, 1, 2, 3, 4)}, "one to 4 blocks"),
        ({"depth": 7}, "depth=7"),
        ({"weight": {"attn": 1.0}}, "align and for attention"),
    ],
)
def test_settings_that_cannot_be_are_refused(settings, says):
    with pytest.raises(DiffxError, match=says):
        _ = TinyRun({"it": HASTE(**settings)}).model
