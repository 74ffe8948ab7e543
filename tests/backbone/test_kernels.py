"""Which kernels the hot paths take: flash attention unless a bias is asked for, one gather, one scatter."""

from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from diffx.assemble.attention import attention_kernels
from diffx.backbone.protocol import Memory
from diffx.testing import BATCH, Operations, tiny_backbone, tiny_mdt
from diffx.tokens import Tokens, gather, keep, scatter

VIEWS = ("expand", "view", "_unsafe_view", "unsqueeze", "detach", "alias")
ROWS = ("arange", "mul", "add")  # of integers: which rows
OPTIONS: dict[str, dict[str, Any]] = {
    "plain": {},
    "rope": {"position": "rope"},
    "qk_norm": {"qk_norm": True},
    "rope and qk_norm": {"position": "rope", "qk_norm": True},
}


class AttentionTypes(TorchDispatchMode):
    """Records the types that attention kernels are given, by kernel."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: set[tuple[str, torch.dtype]] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if "attention" in str(func):
            self.seen |= {(func._overloadpacket.__name__, tensor.dtype) for tensor in args[:3]}
        return func(*args, **(kwargs or {}))


def forward(backbone: torch.nn.Module, half: bool) -> set[tuple[str, torch.dtype]]:
    x, t, y = torch.randn(BATCH, 4, 8, 8), torch.rand(BATCH), torch.zeros(BATCH, dtype=torch.long)
    with torch.autocast("cpu", torch.bfloat16, enabled=half), AttentionTypes() as attention:
        backbone(x, t, y)
    return attention.seen


@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
def test_attention_takes_the_flash_kernel_in_bfloat16_under_autocast(options):
    assert forward(tiny_backbone(**options), half=True) == {
        ("_scaled_dot_product_flash_attention_for_cpu", torch.bfloat16)
    }


@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
def test_attention_takes_the_flash_kernel_in_float32(options):
    assert forward(tiny_backbone(**options), half=False) == {
        ("_scaled_dot_product_flash_attention_for_cpu", torch.float32)
    }


def kernels(call: Any) -> list[str]:
    """The operations of a call that move tokens; which rows they are is arithmetic of a few integers."""
    with Operations() as operations:
        call()
    names = [name.split(".")[1] for name in operations.names]
    return [name for name in names if name not in (*VIEWS, *ROWS)]


def test_a_gather_of_tokens_is_one_kernel_and_so_is_a_scatter():
    x, rows, index = torch.randn(2, 6, 3), torch.randn(2, 2, 3), torch.tensor([[0, 2], [1, 5]])
    assert kernels(lambda: gather(x, index)) == ["index_select"]
    assert kernels(lambda: keep(Tokens(x), index)) == ["index_select"]
    assert kernels(lambda: scatter(x, index, rows)) == ["index_copy"]


def test_the_residual_stream_is_contiguous_from_the_embedding_to_the_head():
    backbone = tiny_backbone()
    tokens, cond = backbone.embed(torch.randn(2, 4, 8, 8), torch.rand(2), torch.zeros(2, dtype=torch.long), Memory())
    for depth in range(len(backbone.blocks)):
        assert tokens.x.is_contiguous()
        tokens = backbone.run_block(depth, tokens, cond, Memory())
    assert tokens.x.is_contiguous()


@pytest.mark.parametrize(("precision", "half"), [("32-true", False), ("bf16-mixed", True)])
@pytest.mark.parametrize("family", [tiny_backbone, tiny_mdt])
def test_the_recorded_kernels_of_attention_are_those_that_a_forward_takes(family: Any, precision: str, half: bool):
    sketch = family().to("meta")
    named = attention_kernels(sketch, BATCH, precision, torch.device("cpu"))
    taken = {"flash" for name, _ in forward(family(), half) if "flash" in name} or {"math"}
    assert named == sorted(taken)
