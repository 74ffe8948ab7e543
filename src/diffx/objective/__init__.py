"""Objectives: each owns the times, the path, the target and the loss, and hands samplers a velocity and a score."""

from typing import Protocol

import torch
from torch import Tensor

from diffx.objective.interpolant import Interpolant


class Objective(Protocol):
    """What the step and the samplers ask of an objective: x (B, C, H, W), t (B,), out as the network gives it."""

    name: str

    def times(self, count: int, rng: torch.Generator) -> Tensor: ...
    def noised(self, x: Tensor, noise: Tensor, t: Tensor) -> Tensor: ...
    def loss(self, out: Tensor, x: Tensor, noise: Tensor, t: Tensor) -> Tensor: ...
    def velocity(self, out: Tensor, x_t: Tensor, t: Tensor) -> Tensor: ...
    def score(self, out: Tensor, x_t: Tensor, t: Tensor) -> Tensor: ...


__all__ = ["Interpolant", "Objective"]
