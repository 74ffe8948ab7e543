"""Objectives: each owns the times, the path, the target and the loss, and says what a network's output stands for."""

from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor

from diffx.objective.ddpm import DDPM
from diffx.objective.edm import EDM
from diffx.objective.interpolant import Interpolant
from diffx.objective.meanflow import MeanFlow, Network


class Objective(Protocol):
    """What the step and the samplers ask of an objective: x (B, C, H, W), t (B,), out as the network gives it. In
    `noised`, `inputs`, `target` and `errors`, t may be a map of times (B, 1, H, W).

    t is the objective's own time and grows from data to noise: [0, 1] for interpolants, a step 0..999 for DDPM, the
    noise's standard deviation for EDM. `inputs` turns (x_t, t) into what the network is fed. `position` says where a
    time lies between data (0) and noise (1), which is what guidance intervals and schedules refer to. `sigma` is the
    standard deviation of the noise in x_t. `target` is what out is compared with, `errors` the loss before its mean
    over a sample.

    gives: what a sampler may ask for (`asks`): "velocity", "score", "data", "noise_levels" (its time is σ) or "chain"
    (`chain`, DDPM's steps). samplers: those of diffx that fit, in words. ends: the times that integration stops at, at
    the data and at the noise: 0 and 1, but for predictions that divide by α or σ, which are not defined there.
    """

    gives: frozenset[str]
    samplers: str
    ends: tuple[float, float]

    def times(self, count: int, rng: torch.Generator) -> Tensor: ...
    def noised(self, x: Tensor, noise: Tensor, t: Tensor) -> Tensor: ...
    def inputs(self, x_t: Tensor, t: Tensor) -> tuple[Tensor, Tensor]: ...
    def target(self, x: Tensor, noise: Tensor, t: Tensor) -> Tensor: ...
    def errors(self, out: Tensor, x: Tensor, noise: Tensor, t: Tensor) -> Tensor: ...
    def loss(self, out: Tensor, x: Tensor, noise: Tensor, t: Tensor) -> Tensor: ...
    def velocity(self, out: Tensor, x_t: Tensor, t: Tensor) -> Tensor: ...
    def score(self, out: Tensor, x_t: Tensor, t: Tensor) -> Tensor: ...
    def data(self, out: Tensor, x_t: Tensor, t: Tensor) -> Tensor: ...
    def position(self, t: float) -> float: ...
    def sigma(self, t: float) -> float: ...


@runtime_checkable
class Averaging(Protocol):
    """What a step asks, in place of `times`, `target` and `loss`, of an objective about averages between two times,
    whose target takes the network itself (MeanFlow).

    intervals: t and r <= t, (B,) each. average: what the output at (t, r) is pulled to, from the plain network as it is
    and without a gradient. deviation: the loss of each sample (B,).
    """

    def intervals(self, count: int, rng: torch.Generator) -> tuple[Tensor, Tensor]: ...
    def average(
        self, network: Network, x: Tensor, noise: Tensor, t: Tensor, r: Tensor, y: Any, null: Any
    ) -> Tensor: ...
    def deviation(self, out: Tensor, average: Tensor) -> Tensor: ...


__all__ = ["DDPM", "EDM", "Averaging", "Interpolant", "MeanFlow", "Objective"]
