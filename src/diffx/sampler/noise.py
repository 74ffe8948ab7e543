"""Noise that belongs to a sample: sample i is the same on one device or on sixty-four."""

import hashlib
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

Noise = Callable[[Tensor], Tensor]  # like x (B, C, H, W) -> standard normal of its shape, type and device


class SampleNoise:
    """Standard normal draws in float64, each row from its own generator seeded by (seed, sample index)."""

    def __init__(self, seed: int, indices: Sequence[int]) -> None:
        # A CPU generator hears only the low 32 bits of its seed, so `seed` is hashed to where its indices begin.
        begin = int.from_bytes(hashlib.blake2b(str(seed).encode(), digest_size=4).digest(), "big")
        self.generators = [torch.Generator().manual_seed((begin + index) % 2**32) for index in indices]

    def __call__(self, like: Tensor) -> Tensor:
        drawn = self.draw(tuple(like.shape[1:])).to(like.dtype)
        if like.is_cuda:  # from pinned memory, so that nobody waits for the kernels that are under way
            return drawn.pin_memory().to(like.device, non_blocking=True)
        return drawn

    def draw(self, shape: tuple[int, ...]) -> Tensor:
        """(B, *shape) in float64 on the CPU."""
        return torch.stack([torch.randn(shape, generator=g, dtype=torch.float64) for g in self.generators])
