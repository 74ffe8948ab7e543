"""trainer.stream: what the residual stream is kept in under autocast, in every family."""

from typing import Any

import pytest
import torch
from torch import Tensor

from diffx.config.compose import compose_config
from diffx.errors import DiffxError
from diffx.testing import BATCH, registered_backbones
from diffx.train.module import DiffusionModule

FAMILIES = {name: family for name, family in registered_backbones().items() if family.tiny().num_classes}


def types_at_blocks(net: Any) -> set[torch.dtype]:
    """Of the tokens that every block reads, and behind the last one, under autocast to bfloat16."""
    seen: set[torch.dtype] = set()
    run, head = net.run_block, net.head

    def run_and_watch(depth: int, tokens: Any, cond: Tensor, memory: Any) -> Any:
        seen.add(tokens.x.dtype)
        return run(depth, tokens, cond, memory)

    def head_and_watch(tokens: Any, cond: Tensor) -> Tensor:
        seen.add(tokens.x.dtype)
        return head(tokens, cond)

    net.run_block, net.head = run_and_watch, head_and_watch
    size = sum(torch.Size(shape).numel() for shape in net.streams.values())
    x = torch.randn(BATCH, *net.shape) if len(net.streams) == 1 else torch.randn(BATCH, size, 1, 1)
    with torch.autocast("cpu", torch.bfloat16):
        net(x, torch.rand(BATCH), torch.zeros(BATCH, dtype=torch.long)).float().sum().backward()
    return seen


@pytest.mark.parametrize("name", FAMILIES)
def test_a_bfloat16_stream_is_bfloat16_at_every_block(name: str):
    net = FAMILIES[name].tiny()
    net.stream_dtype = torch.bfloat16
    assert types_at_blocks(net) == {torch.bfloat16}


@pytest.mark.parametrize("name", ["dit", "mdt"])
def test_the_stream_is_float32_unless_told(name: str):
    assert types_at_blocks(FAMILIES[name].tiny()) == {torch.float32}


def test_what_is_trained_has_the_stream_and_its_average_has_not():
    module = DiffusionModule.of(FAMILIES["dit"].tiny(), stream="bfloat16")
    assert (module.backbone.stream_dtype, module.ema.stream_dtype) == (torch.bfloat16, None)


def test_a_bfloat16_stream_beside_float32_products_is_refused():
    with pytest.raises(DiffxError, match=r"trainer\.stream=bfloat16 goes with trainer\.precision=bf16-mixed or fp8"):
        compose_config(["trainer.stream=bfloat16", "trainer.precision=32-true"])
