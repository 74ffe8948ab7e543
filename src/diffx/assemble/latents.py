"""What an autoencoder makes of an image, what that costs beside a backbone, and which noise its latents ask for."""

from typing import Any

import torch
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from diffx.assemble.flops import flops_of, without_storage
from diffx.assemble.plan_table import operations
from diffx.backbone import DiT
from diffx.frozen.autoencoder import sketch
from diffx.objective.times import dimension_shift

TOKENS = 256
"""Of the backbone beside which it stands: a patch of 2 from 32x32 on, and 1 below."""


def autoencoder_flops(network: nn.Module, image_size: int) -> tuple[int, int]:
    """Operations of encoder and decoder for one image, a multiply-add counted as two; nothing is computed."""
    net: Any = without_storage({"autoencoder": network})["autoencoder"]
    side = image_size // net.stride
    image, raw = torch.zeros(1, 3, image_size, image_size), torch.zeros(1, net.channels, side, side)
    return flops_of(net.encode, image.to("meta")), flops_of(net.decode, raw.to("meta"))


def autoencoder_line(name: str, network: Any, image_size: int) -> str:
    """Two lines for a person."""
    encoder, decoder = autoencoder_flops(network, image_size)
    channels, side = network.channels, image_size // network.stride
    patch = max(1, round(side / TOKENS**0.5))
    shift = dimension_shift(channels, side, side)
    return (
        f"autoencoder {name}: images of {image_size} pixels to {channels} x {side} x {side}; {operations(encoder)} an "
        f"image to encode and {operations(decoder)} to decode, where a forward of DiT-XL/{patch} takes "
        f"{operations(_xl_flops(channels, side, patch))}\n"
        f"noise shift for this dimension: {shift:.3g}, which is objective.shift=auto (RAE's rule, √(C·H·W / 4096))"
    )


def describe_autoencoder(name: str, image_size: int) -> str:
    """As autoencoder_line, for one that is known by name, without its weights."""
    with torch.device("meta"):
        network = sketch(name)
    if network is None:
        return f"autoencoder {name}: its operations are counted where its weights are, by diffx.prepare latents"
    return autoencoder_line(name, network, image_size)


def _xl_flops(channels: int, side: int, patch: int) -> int:
    with torch.device("meta"), sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter, torch.no_grad():
        net = DiT(
            input_size=side,
            in_channels=channels,
            num_classes=1000,
            patch_size=patch,
            hidden_size=1152,
            depth=28,
            num_heads=16,
        )
        net(torch.zeros(1, *net.shape), torch.zeros(1), torch.zeros(1, dtype=torch.long))
    return counter.get_total_flops()
