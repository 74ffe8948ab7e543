"""Exponential moving averages of the backbone."""

from collections.abc import Iterator

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor


@torch.no_grad()
def update_ema(ema: nn.Module, live: nn.Module, decay: float) -> None:
    """ema <- decay · ema + (1 − decay) · live over all trained parameters in one call; fixed tables stay."""
    averages, parameters = map(list, zip(*_trained_pairs(ema, live), strict=True))
    torch._foreach_lerp_(averages, parameters, 1 - decay)


def _trained_pairs(ema: nn.Module, live: nn.Module) -> Iterator[tuple[Tensor, Tensor]]:
    for average, parameter in zip(ema.parameters(), live.parameters(), strict=True):
        if parameter.requires_grad:
            yield local(average), local(parameter.detach())


def local(tensor: Tensor) -> Tensor:
    """This rank's part of a sharded tensor, which is all of any other."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor
