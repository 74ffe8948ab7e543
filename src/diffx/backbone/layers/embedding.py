"""Embeddings: of patches, times and labels."""

import math

import torch
from torch import Tensor, nn


class PatchEmbed(nn.Module):
    """Images or latents (B, C, H, W) -> tokens (B, N, D), row by row."""

    def __init__(self, patch_size: int, in_channels: int, hidden_size: int) -> None:
        super().__init__()
        self.proj = nn.Conv2d(in_channels, hidden_size, patch_size, stride=patch_size)

    def forward(self, x: Tensor) -> Tensor:
        # The residual stream keeps the memory layout it starts with, and norms are slow on one that is transposed.
        return self.proj(x).flatten(2).transpose(1, 2).contiguous()


def join_patches(patches: Tensor, side: int, patch_size: int) -> Tensor:
    """Patches (B, side², p·p·C), each in the order row, column, channel -> (B, C, H, W)."""
    grid = patches.unflatten(1, (side, side)).unflatten(-1, (patch_size, patch_size, -1))
    size = side * patch_size
    return grid.permute(0, 5, 1, 3, 2, 4).reshape(len(patches), -1, size, size)


class TimestepEmbedder(nn.Module):
    """Times t (...) -> (..., D): 256 sinusoidal features [cos | sin], periods up to `period`, and a two-layer SiLU MLP.

    t is fed as the objective gives it: in [0, 1] for interpolants (SiT), an integer step for DDPM (DiT).
    """

    def __init__(self, hidden_size: int, frequencies: int = 256, period: float = 10000) -> None:
        super().__init__()
        self.frequencies, self.period = frequencies, period
        self.mlp = nn.Sequential(nn.Linear(frequencies, hidden_size), nn.SiLU(), nn.Linear(hidden_size, hidden_size))

    def forward(self, t: Tensor) -> Tensor:
        features = sinusoids(t, self.frequencies, self.period)
        return self.mlp(features.to(self.mlp[2].bias.dtype))  # type: ignore[arg-type]


class FourierEmbedder(nn.Module):
    """Times t (...) -> (..., D): [sin 2πWt | cos 2πWt] at 256 frequencies W, and a two-layer SiLU MLP (RAE). W is drawn
    once, is not trained, and is part of the weights."""

    def __init__(self, hidden_size: int, frequencies: int = 256) -> None:
        super().__init__()
        self.W = nn.Parameter(torch.randn(frequencies), requires_grad=False)
        layers = (nn.Linear(2 * frequencies, hidden_size), nn.SiLU(), nn.Linear(hidden_size, hidden_size))
        self.mlp = nn.Sequential(*layers)

    def forward(self, t: Tensor) -> Tensor:
        angle = 2 * math.pi * t[..., None].float() * self.W.float()
        features = torch.cat([angle.sin(), angle.cos()], dim=-1)
        return self.mlp(features.to(self.mlp[2].bias.dtype))  # type: ignore[arg-type]


def initialise_patches(embedder: PatchEmbed) -> None:
    """Xavier's weights, as of a linear layer on flat patches, and no bias (facebookresearch/DiT)."""
    nn.init.xavier_uniform_(embedder.proj.weight.flatten(1))
    nn.init.zeros_(embedder.proj.bias)  # type: ignore[arg-type]


def initialise_times(embedder: TimestepEmbedder) -> None:
    """Small normal weights in both layers (facebookresearch/DiT)."""
    for name in ("mlp.0.weight", "mlp.2.weight"):
        nn.init.normal_(embedder.get_parameter(name), std=0.02)


def sinusoids(t: Tensor, count: int, period: float) -> Tensor:
    """[cos ωt | sin ωt] (..., count) in float32, frequencies ω = period^(-i / (count / 2))."""
    half = count // 2
    omega = torch.exp(-math.log(period) * torch.arange(half, dtype=torch.float32, device=t.device) / half)
    angle = t[..., None].float() * omega
    return torch.cat([angle.cos(), angle.sin()], dim=-1)


class LabelEmbedder(nn.Module):
    """Labels y (B,) -> (B, D). Row `num_classes` is the null label; dropping labels is the training step's business."""

    def __init__(self, num_classes: int, hidden_size: int) -> None:
        super().__init__()
        self.embedding_table = nn.Embedding(num_classes + 1, hidden_size)

    def forward(self, y: Tensor) -> Tensor:
        return self.embedding_table(y)
