"""The training step as the field's public scripts write it, part by part: what diffx's parts are compared with.

Written from what those scripts do (DiT, SiT and REPA share it), not from their text.
"""

from types import MethodType
from typing import Any

import torch
from torch import Tensor, nn

from diffx.backbone import Backbone


@torch.no_grad()
def ema_by_parameter(ema: nn.Module, live: nn.Module, decay: float) -> None:
    """Two small operations for each parameter, fixed tables included."""
    for (_, average), (_, parameter) in zip(ema.named_parameters(), live.named_parameters(), strict=True):
        average.mul_(decay).add_(parameter.data, alpha=1 - decay)


def as_peers_write_it(backbone: Backbone) -> None:
    """Blocks whose modulation is two operations, on a residual stream that stays transposed as the patches come.

    The mathematics is the same. In autocast the stream is float32, with theirs as with diffx's.
    """
    embedder: Any = backbone.x_embedder
    embedder.forward = MethodType(_embed_patches, embedder)
    for block in backbone.blocks:
        block.forward = MethodType(_block, block)


def _embed_patches(self: Any, x: Tensor) -> Tensor:
    return self.proj(x).flatten(2).transpose(1, 2)


def _modulate(x: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
    return x * (1 + scale.unsqueeze(1)) + shift.unsqueeze(1)


def _block(
    self: Any,
    x: Tensor,
    cond: Tensor,
    ids: Tensor | None = None,
    remembered: Tensor | None = None,
    attention: list[Tensor] | None = None,
) -> Tensor:
    if remembered is not None:
        x = self.skip_linear(torch.cat([x, remembered], dim=-1))
    shift_a, scale_a, gate_a, shift_m, scale_m, gate_m = self.adaLN_modulation(cond).chunk(6, dim=1)
    x = x + gate_a.unsqueeze(1) * self.attn(_modulate(self.norm1(x), shift_a, scale_a), ids)
    return x + gate_m.unsqueeze(1) * self.mlp(_modulate(self.norm2(x), shift_m, scale_m))
