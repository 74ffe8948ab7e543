"""PixArt's shared modulation as a conditioning of the backbone."""

import pytest
import torch

from diffx.backbone import DiT
from diffx.backbone.protocol import Memory
from diffx.errors import DiffxError
from diffx.testing import make_registered, registered, tiny_backbone, tiny_mdt, try_set

D = 32


def test_it_removes_the_modulation_layer_of_every_block_but_one():
    def count(**options) -> int:
        with torch.device("meta"):
            return sum(p.numel() for p in DiT(**options).parameters())

    width, depth = 1152, 28
    layer = 6 * width * width + 6 * width
    head = 2 * width * width  # the head keeps its biases alone
    assert count() == 675_111_184
    assert count(conditioning="adaln_single") == 675_111_184 - (depth - 1) * layer - head + depth * 6 * width


@torch.no_grad()
def test_a_fresh_network_outputs_zero_and_its_blocks_are_the_identity():
    backbone = DiT(input_size=8, hidden_size=D, depth=2, num_heads=4, conditioning="adaln_single")
    tokens, cond = backbone.embed(torch.ones(2, 4, 8, 8), torch.rand(2), torch.tensor([1, 2]), Memory())
    assert cond.shape == (2, 7 * D)
    for block in (*backbone.blocks, backbone.new_block()):
        assert torch.equal(block(tokens.x, cond), tokens.x)
    assert not backbone(torch.ones(2, 4, 8, 8), torch.rand(2), torch.tensor([1, 2])).any()


@torch.no_grad()
def test_with_equal_tables_it_is_adaln_zero_whose_blocks_have_equal_modulation_layers():
    """adaLN-Zero blocks that all hold the shared layer's weights compute the same network, up to the head."""
    single = tiny_backbone(conditioning="adaln_single")
    zero = tiny_backbone()
    shared = single.shared_modulation.linear
    zero.load_state_dict({k: v for k, v in single.state_dict().items() if k in zero.state_dict()}, strict=False)
    for ours, theirs in zip(zero.blocks, single.blocks, strict=True):
        ours.adaLN_modulation[1].weight.copy_(shared.weight)
        ours.adaLN_modulation[1].bias.copy_(shared.bias + theirs.adaLN_modulation.scale_shift_table)
    x, t, y = torch.ones(2, 4, 8, 8), torch.rand(2), torch.tensor([1, 2])
    (a, cond_a), (b, cond_b) = (net.embed(x, t, y, Memory()) for net in (zero, single))
    assert torch.equal(cond_b[:, :D], cond_a)
    for ours, theirs in zip(zero.blocks, single.blocks, strict=True):
        a, b = a._replace(x=ours(a.x, cond_a)), b._replace(x=theirs(b.x, cond_b))
        torch.testing.assert_close(b.x, a.x)
    table = single.final_layer.adaLN_modulation.scale_shift_table
    shift, scale = (cond_a.repeat(1, 2) + table).unsqueeze(1).chunk(2, dim=2)
    patches = single.final_layer.linear(single.final_layer.norm_final(b.x) * (1 + scale) + shift)
    torch.testing.assert_close(single.final_layer(b.x, cond_b), patches)


@pytest.mark.parametrize("name", registered())
def test_every_registered_plugin_trains_on_it(name):
    run, refusal = try_set({name: make_registered(name)}, tiny_mdt(conditioning="adaln_single"))
    if run is None:
        pytest.skip(refusal)
    run.losses(run.draws())["total"].backward()
    assert run.backbone.shared_modulation.linear.weight.grad.any()


def test_an_unknown_conditioning_is_refused_with_the_known_ones():
    with pytest.raises(DiffxError, match=r"conditioning= one of adaln_zero, adaln_single"):
        DiT(conditioning="film")
