"""Which kernel attention takes in training on this device: torch chooses by shapes, type, mask and hardware."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from diffx.backbone import Backbone
from diffx.backbone.layers.attention import attend
from diffx.backbone.protocol import state_shape
from diffx.backbone.text import blank_condition

FEW = 8  # samples are enough to ask with
KERNELS = ("cudnn", "flash", "efficient")  # as torch's operators are called, _scaled_dot_product_<kernel>_attention

Call = tuple[tuple[tuple[int, ...], bool], ...]
"""Shapes of q, k, v and, where there is one, the bias, each with whether it is a mask of booleans."""


def attention_kernels(sketch: Backbone, batch: int, precision: str, device: torch.device) -> list[str]:
    """The kernels ("cudnn", "flash", "efficient", "math") that a forward of `sketch`, a network on meta, takes on
    `device` in this precision: its calls are noted without storage, and each kind is run once with noise."""
    few = min(batch, FEW)
    with _Calls() as calls, torch.device("meta"), torch.no_grad():
        sketch(torch.zeros(few, *state_shape(sketch)), torch.zeros(few), blank_condition(sketch, few))
    dtype = {"bf16-mixed": torch.bfloat16, "fp8": torch.bfloat16, "16-mixed": torch.float16}.get(
        precision, torch.float32
    )
    return sorted({_kernel(call, dtype, device) for call in calls.seen})


def _kernel(asked: Call, dtype: torch.dtype, device: torch.device) -> str:
    """What one call takes, with a gradient as in training."""
    given = [
        torch.ones(shape, dtype=torch.bool, device=device)
        if is_mask
        else torch.randn(shape, dtype=dtype, device=device, requires_grad=True)
        for shape, is_mask in asked
    ]
    with _Operators() as operators:
        attend(*given)
    return next((name for name in KERNELS if any(name in operator for operator in operators.seen)), "math")


class _Calls(TorchFunctionMode):
    """Notes every attention's Call."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: set[Call] = set()

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if function is F.scaled_dot_product_attention:
            given = [*args, (kwargs or {}).get("attn_mask")]
            tensors = [one for one in given if isinstance(one, Tensor)]
            self.seen.add(tuple((tuple(one.shape), one.dtype is torch.bool) for one in tensors))
        return function(*args, **(kwargs or {}))


class _Operators(TorchDispatchMode):
    """Notes the names of the operators of attention."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: set[str] = set()

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if "attention" in str(function):
            self.seen.add(str(function))
        return function(*args, **(kwargs or {}))
