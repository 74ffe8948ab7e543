"""Exponential moving averages of the backbone."""

import copy
from collections.abc import Iterator

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from diffx.backbone import Backbone


def average_of(backbone: Backbone) -> Backbone:
    """A copy that is not trained, where an average begins."""
    return copy.deepcopy(backbone).requires_grad_(False).eval()


@torch.no_grad()
def update_ema(ema: nn.Module, live: nn.Module, decay: float) -> None:
    """ema <- decay · ema + (1 − decay) · live over all trained parameters in one call; fixed tables stay."""
    averages, parameters = map(list, zip(*_trained_pairs(ema, live), strict=True))
    torch._foreach_lerp_(averages, parameters, 1 - decay)


@torch.no_grad()
def update_ema_unless(bad: Tensor, ema: nn.Module, live: nn.Module, decay: float) -> None:
    """As update_ema, bit for bit, but where `bad`, a boolean scalar on the device, nothing moves, and nobody waits to
    read it. No call for many tensors takes its weight from the device, so this is a kernel for each."""
    weight = (1 - decay) * (~bad).float()
    for average, parameter in _trained_pairs(ema, live):
        average.lerp_(parameter, weight.to(average.dtype))


def _trained_pairs(ema: nn.Module, live: nn.Module) -> Iterator[tuple[Tensor, Tensor]]:
    for average, parameter in zip(ema.parameters(), live.parameters(), strict=True):
        if parameter.requires_grad:
            yield local(average), local(parameter.detach())


def local(tensor: Tensor) -> Tensor:
    """This rank's part of a sharded tensor, which is all of any other."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def key_of(decay: float) -> str:
    """A decay as a module's name, which has no dots."""
    return str(decay).replace(".", "_")
