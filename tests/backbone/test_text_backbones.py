"""MM-DiT and PixArt: what text changes, what padding does not, and what a training step of either costs."""

from typing import Any

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from diffx.assemble.flops import count_flops
from diffx.backbone import MMDiT, PixArt, Text
from diffx.backbone.protocol import Memory
from diffx.config.compose import compose_config
from diffx.config.target import make
from diffx.errors import DiffxError
from diffx.objective import Interpolant
from diffx.planner import MAIN, make_plan, make_view
from diffx.step import walk_with_plugins
from diffx.testing import BATCH, example_condition, make_registered, tiny_of


def inputs(net: Any) -> tuple[torch.Tensor, torch.Tensor, Text]:
    x = torch.randn(BATCH, *net.shape, generator=torch.Generator().manual_seed(1))
    return x, torch.linspace(0.1, 0.9, BATCH), example_condition(net, torch.Generator().manual_seed(3))


def with_other_padding(y: Text) -> Text:
    """The text with its last two tokens marked as padding, which is noise."""
    mask, tokens = y.mask.clone(), y.tokens.clone()
    mask[:, -2:], tokens[:, -2:] = False, torch.randn(len(tokens), 2, tokens.shape[2])
    return Text(tokens, mask, y.pooled)


@torch.no_grad()
@pytest.mark.parametrize(("family", "options", "reads_padding"), [
    (PixArt, {}, False),
    (MMDiT, {"mask_text": True}, False),
    (MMDiT, {}, True),
])  # fmt: skip
def test_padding_is_read_by_stable_diffusions_network_alone(family: Any, options: dict[str, Any], reads_padding: bool):
    net = tiny_of(family, **options)
    x, t, y = inputs(net)
    one, other = (net(x, t, with_other_padding(y)) for _ in range(2))
    assert torch.allclose(one, other, atol=1e-5) is not reads_padding


@torch.no_grad()
def test_images_of_two_sizes_share_the_centre_of_one_position_table():
    large, small = (MMDiT.tiny(input_size=size, position_size=6) for size in (12, 8))
    assert torch.equal(large.pos_embed, small.pos_embed)
    x, t, y = inputs(small)
    tokens, _ = small.embed(x, t, y, Memory())
    inner = small.pos_embed[:, 1:5, 1:5].flatten(1, 2)
    torch.testing.assert_close(tokens.x - small.x_embedder(x), inner.expand(BATCH, -1, -1))


@torch.no_grad()
@pytest.mark.parametrize("text", [5, 9])
def test_the_flops_of_mm_dit_are_those_of_its_products(text: int):
    depth, dim, ratio, image = 6, 32, 4, 16
    net = MMDiT.tiny(text_length=text)
    x, t, y = inputs(net)
    # torch 2.11 does not count a CPU's own kernel of attention.
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        net(x, t, y)
    both = image + text
    per_token = 2 * dim * (3 * dim + dim + 2 * ratio * dim)
    attention = depth * 2 * 2 * both * both * dim
    products = depth * per_token * image + (depth - 1) * per_token * text + 2 * dim * 3 * dim * text
    modulations = 2 * dim * dim * (6 * depth + 6 * (depth - 1) + 2 + 2)
    embeddings = 2 * dim * (256 + dim) + 2 * dim * (3 + dim) + 2 * 6 * dim * text + 2 * 2 * 16 * dim * image
    assert counter.get_total_flops() == BATCH * (attention + products + modulations + embeddings)


def test_a_step_of_pixart_is_counted_as_its_products():
    depth, dim, ratio, image, text = 6, 32, 4, 16, 5
    net, objective = PixArt.tiny(), Interpolant()
    counted = count_flops(net, {}, objective, make_plan(net, {}, set()), {})
    per_token = 2 * dim * (3 * dim + dim + 2 * dim + 2 * ratio * dim)
    attention = depth * 2 * 2 * dim * (image * image + image * text)
    products = depth * (per_token * image + 2 * dim * 2 * dim * text)
    embeddings = 2 * dim * (256 + dim) + 2 * dim * 6 * dim + 2 * dim * (6 + dim) * text + 2 * 2 * 16 * dim * image
    assert counted.forward == counted.plain == attention + products + embeddings


@pytest.mark.parametrize(("words", "millions"), [
    (["sd3_medium", "data.channels=16", "data.text={length: 154, channels: 4096, pooled: 2048}"], 2028.328),
    (["pixart_xl", "backbone.learn_sigma=true"], 610.856096),
])  # fmt: skip
def test_a_released_preset_has_as_many_weights_as_diffusers_network(words: list[str], millions: float):
    config = compose_config(["data=captioned256", f"backbone={words[0]}", *words[1:]])
    with torch.device("meta"):
        net = make(config.backbone)
    assert sum(p.numel() for p in net.parameters() if p.requires_grad) == round(millions * 1e6)


@torch.no_grad()
def test_a_block_left_out_leaves_the_text_as_it_was():
    net, shorter, plugin = tiny_of(MMDiT), tiny_of(MMDiT), make_registered("identity")
    plugin.setup(net)
    shorter.blocks = torch.nn.ModuleList(block for d, block in enumerate(shorter.blocks) if d not in plugin.wraps)
    x, t, y = inputs(net)
    plugins = {"identity": plugin}
    out, _ = walk_with_plugins(net, make_view(MAIN, net, plugins), plugins, x, t, y, {"identity": {}})
    assert torch.equal(out, shorter(x, t, y))


@pytest.mark.parametrize("family", [MMDiT, PixArt])
def test_a_block_cannot_run_on_some_of_the_samples(family: Any):
    with pytest.raises(DiffxError, match="read every sample's text"):
        make_registered("stochastic_depth").setup(family.tiny())


@pytest.mark.parametrize(("options", "said"), [
    ({"position_size": 3}, r"position_size=3 is less than the grid of 4x4"),
    ({"dual_blocks": 7}, r"dual_blocks=7 must lie between 0 and backbone\.depth=6"),
    ({"pooled_channels": 0}, r"take an encoder that has one, or backbone=pixart_xl"),
    ({"text_length": 0}, r"text_length=0, .* are no text"),
    ({"times": "days"}, r"type backbone\.times= one of interval, steps"),
])  # fmt: skip
def test_options_that_do_not_fit_are_one_sentence(options: dict[str, Any], said: str):
    with pytest.raises(DiffxError, match=said):
        MMDiT.tiny(**options)
