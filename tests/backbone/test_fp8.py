"""Products in 8-bit floats, as the CPU can imitate them: which layers, how far from bfloat16, and what stays."""

import copy

import pytest
import torch
from torch import nn
from torchao.float8.float8_linear import Float8Linear

from diffx.backbone.layers.fp8 import check_fp8, multiply_in_fp8
from diffx.config.compose import compose_config
from diffx.errors import DiffxError
from diffx.testing.tiny import tiny_backbone
from diffx.train.ema import update_ema
from diffx.train.module import DiffusionModule


@pytest.fixture
def pair() -> tuple[nn.Module, nn.Module]:
    """A backbone, and the same with products in 8 bits."""
    plain = tiny_backbone()
    torch.manual_seed(0)
    for parameter in plain.parameters():  # so that no gate is closed
        nn.init.normal_(parameter, std=0.1)
    rounded = copy.deepcopy(plain)
    multiply_in_fp8(rounded.blocks)
    return plain, rounded


def test_attention_and_mlp_multiply_in_8_bits_and_what_is_one_vector_a_sample_does_not(pair):
    _, rounded = pair
    eight = {name for name, layer in rounded.named_modules() if isinstance(layer, Float8Linear)}
    linear = {name for name, layer in rounded.named_modules() if isinstance(layer, nn.Linear)}
    in_blocks = {name for name in linear if name.startswith("blocks") and "adaLN" not in name}
    assert eight == in_blocks
    assert any("attn.qkv" in name for name in eight)
    assert any("adaLN" in name for name in linear)


def test_weights_keep_their_names_and_are_averaged_as_ever(pair):
    plain, rounded = pair
    assert list(plain.state_dict()) == list(rounded.state_dict())
    average = copy.deepcopy(plain)
    for parameter in rounded.parameters():
        parameter.data.add_(1.0)
    update_ema(average, rounded, 0.5)
    moved = average.blocks[0].attn.qkv.weight - plain.blocks[0].attn.qkv.weight
    torch.testing.assert_close(moved, torch.full_like(moved, 0.5))


def test_outputs_and_gradients_differ_from_float32_by_8_bits_and_no_more(pair):
    x, t, y = torch.randn(2, *pair[0].shape), torch.rand(2), torch.tensor([1, 2])
    outputs, gradients = [], []
    for net in pair:
        out = net(x, t, y)
        out.square().mean().backward()
        outputs.append(out.detach())
        gradients.append(net.blocks[0].mlp.fc1.weight.grad)
    for plain, rounded in (outputs, gradients):
        off = (rounded - plain).norm() / plain.norm()
        assert 1e-3 < off < 0.15  # e4m3 has 3 bits of mantissa: 2**-4 a factor; e5m2, of gradients, 2 bits


def test_a_training_module_converts_what_it_trains_and_samples_from_a_plain_average():
    module = DiffusionModule.of(tiny_backbone(), fp8=True)
    assert any(isinstance(layer, Float8Linear) for layer in module.backbone.modules())
    assert not any(isinstance(layer, Float8Linear) for layer in module.ema.modules())


def test_a_machine_without_a_gpu_is_told_what_to_type():
    with pytest.raises(DiffxError, match=r"fp8 is for GPUs; type trainer\.precision=bf16-mixed"):
        check_fp8(torch.device("cpu"))


def test_fp8_is_a_precision_of_the_command_line():
    assert compose_config(["trainer.precision=fp8"]).trainer.precision == "fp8"
