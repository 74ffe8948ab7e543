"""The small networks: an encoder for REPA's tokens, two that turn images into features for distances, and an
autoencoder."""

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
        self.stages = nn.ModuleList(nn.Sequential(convolution(a, b, 2), convolution(b, b)) for a, b in pairs)
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
        convolution(channels, 32, 2),
        convolution(32, 64),
        convolution(64, 64, 2),
        convolution(64, 128),
        convolution(128, 128, 2),
        nn.AdaptiveAvgPool2d(2),
        nn.Flatten(),
        nn.Linear(512, FEATURE_DIM),  # no ReLU follows: features that died would make the distance zero or infinite
    )
    return FeatureNetwork(trunk)


def restorer(channels: int, size: int) -> FeatureNetwork:
    """The network that restores damaged images of `size` pixels; its features are the bottleneck."""
    side = size // 4
    trunk = nn.Sequential(
        convolution(channels, 48, 2),
        convolution(48, 48, 2),
        nn.Flatten(),
        nn.Linear(48 * side * side, FEATURE_DIM),
    )
    return FeatureNetwork(trunk)


class SmallAutoencoder(nn.Module):
    """A variational autoencoder of images x (B, C, H, W) in [-1, 1]: 4 channels at a quarter of the size (f4d4).

    shift, scale: of its latents over the training images, by channel: a diffusion model sees (raw - shift)·scale.
    """

    posterior, channels, stride, dtype = True, 4, 4, "float16"
    shift: Tensor
    scale: Tensor

    def __init__(self, channels: int) -> None:
        super().__init__()
        narrow, wide, latent = 24, 48, self.channels
        self.encoder = nn.Sequential(
            nn.Conv2d(channels, narrow, 4, 2, 1),
            Residual(narrow),
            nn.Conv2d(narrow, wide, 4, 2, 1),
            Residual(wide),
            Residual(wide),
            nn.Conv2d(wide, 2 * latent, 1),
        )
        self.first = nn.Sequential(nn.Conv2d(latent, wide, 3, 1, 1), Residual(wide), Residual(wide))
        self.rest = nn.Sequential(
            nn.Conv2d(wide, 4 * narrow, 3, 1, 1),
            nn.PixelShuffle(2),
            Residual(narrow),
            nn.Conv2d(narrow, 4 * channels, 3, 1, 1),
            nn.PixelShuffle(2),
        )
        self.register_buffer("shift", torch.zeros(latent))
        self.register_buffer("scale", torch.ones(latent))

    def encode(self, x: Tensor) -> Tensor:
        """Mean and standard deviation of the posterior (B, 8, H/4, W/4)."""
        mean, log_variance = self.encoder(x).chunk(2, dim=1)
        return torch.cat([mean, (0.5 * log_variance.clamp(-30, 20)).exp()], dim=1)

    def middle(self, raw: Tensor) -> Tensor:
        """What the decoder's first half makes of latents: (B, 48, H/4, W/4)."""
        return self.first(raw)

    def decode(self, raw: Tensor) -> Tensor:
        """Latents (B, 4, H/4, W/4) to values (B, C, H, W)."""
        return self.rest(self.first(raw))

    @torch.no_grad()
    def standardise(self, images: Tensor) -> None:
        """Set shift and scale from these images."""
        means = torch.cat([self.encode(signed(part))[:, : self.channels] for part in images.split(512)])
        self.shift, self.scale = means.mean((0, 2, 3)), 1 / means.std((0, 2, 3)).clamp_min(1e-3)


class Residual(nn.Module):
    """x + two convolutions of it."""

    def __init__(self, width: int) -> None:
        super().__init__()
        first, second = (nn.Conv2d(width, width, 3, 1, 1) for _ in range(2))
        norms = [nn.GroupNorm(8, width) for _ in range(2)]
        self.inner = nn.Sequential(norms[0], nn.SiLU(), first, norms[1], nn.SiLU(), second)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.inner(x)


def convolution(inputs: int, outputs: int, stride: int = 1) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(inputs, outputs, 3, stride, 1), nn.GroupNorm(8, outputs), nn.ReLU())
