"""The three small networks: an encoder for REPA's tokens, and two that turn images into features for distances."""

from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from diffx.errors import DiffxError
from diffx.pixels.values import signed

ENCODER_DIM = 128
FEATURE_DIM = 64


class TokenEncoder(nn.Module):
    """Images uint8 (B, C, H, W) -> tokens (B, side², 128), average-pooled from a convolutional grid of stride 2.

    Grids of stride 2, 4 and 8 are added up, so that every token knows its own place and what is around it.
    """

    stride = 2

    def __init__(self, channels: int) -> None:
        super().__init__()
        widths = (channels, 32, 64, 128)
        pairs = list(pairwise(widths))
        self.stages = nn.ModuleList(nn.Sequential(_convolution(a, b, 2), _convolution(b, b)) for a, b in pairs)
        self.merges = nn.ModuleList(nn.Conv2d(width, ENCODER_DIM, 1) for width in widths[1:])

    def grid(self, x: Tensor) -> Tensor:
        """Features (B, 128, H/2, W/2) of images x in [-1, 1]."""
        size = x.shape[-1] // self.stride
        total = torch.zeros(())
        for stage, merge in zip(self.stages, self.merges, strict=True):
            x = stage(x)
            total = total + F.interpolate(merge(x), size=size, mode="bilinear", align_corners=False)
        return total

    def pooled(self, x: Tensor) -> Tensor:
        """The mean token (B, 128), up to the borders of the interpolation: merging is linear, so it may come last."""
        total = torch.zeros(())
        for stage, merge in zip(self.stages, self.merges, strict=True):
            x = stage(x)
            total = total + merge(x.mean((2, 3), keepdim=True))
        return total.flatten(1)

    def forward(self, image: Tensor, side: int) -> Tensor:
        finest = image.shape[-1] // self.stride
        if side < 1 or finest % side:
            raise DiffxError(f"The embedded encoder's {finest}x{finest} tokens cannot be pooled to {side}x{side}.")
        grid = F.adaptive_avg_pool2d(self.grid(signed(image)), side)
        return grid.flatten(2).transpose(1, 2)


class FeatureNetwork(nn.Module):
    """Images uint8 (B, C, H, W) -> features (B, 64), standardised over the training images."""

    mean: Tensor
    std: Tensor

    def __init__(self, trunk: nn.Module) -> None:
        super().__init__()
        self.trunk = trunk
        self.register_buffer("mean", torch.zeros(FEATURE_DIM))
        self.register_buffer("std", torch.ones(FEATURE_DIM))

    def forward(self, image: Tensor) -> Tensor:
        return (self.trunk(signed(image)) - self.mean) / self.std

    def standardise(self, images: Tensor) -> None:
        """Set mean and std from these images."""
        features = torch.cat([self(part) for part in images.split(512)])
        self.mean, self.std = features.mean(0), features.std(0).clamp_min(1e-3)


def classifier(channels: int) -> FeatureNetwork:
    """The network that tells classes apart; its features are the layer before the logits."""
    trunk = nn.Sequential(
        _convolution(channels, 32, 2),
        _convolution(32, 64),
        _convolution(64, 64, 2),
        _convolution(64, 128),
        _convolution(128, 128, 2),
        nn.AdaptiveAvgPool2d(2),
        nn.Flatten(),
        nn.Linear(512, FEATURE_DIM),  # no ReLU follows: features that died would make the distance zero or infinite
    )
    return FeatureNetwork(trunk)


def restorer(channels: int, size: int) -> FeatureNetwork:
    """The network that restores damaged images of `size` pixels; its features are the bottleneck."""
    side = size // 4
    trunk = nn.Sequential(
        _convolution(channels, 48, 2),
        _convolution(48, 48, 2),
        nn.Flatten(),
        nn.Linear(48 * side * side, FEATURE_DIM),
    )
    return FeatureNetwork(trunk)


def _convolution(inputs: int, outputs: int, stride: int = 1) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(inputs, outputs, 3, stride, 1), nn.GroupNorm(8, outputs), nn.ReLU())
