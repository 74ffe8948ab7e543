"""The forms of the SDE's diffusion on a path where they differ."""

import math

import pytest
import torch

from diffx.errors import DiffxError
from diffx.objective import Interpolant
from diffx.sampler import EulerMaruyama, Field, SampleNoise

MEAN, SPREAD = 0.7, 0.5


def exact_velocity(x, t, y):
    """The cosine path's velocity for data from N(MEAN, SPREAD²)."""
    angle = t.view(-1, 1, 1, 1) * math.pi / 2
    alpha, sigma = angle.cos(), angle.sin()
    residual = (x - alpha * MEAN) / (alpha**2 * SPREAD**2 + sigma**2)
    data, noise = MEAN + alpha * SPREAD**2 * residual, sigma * residual
    return math.pi / 2 * (alpha * noise - sigma * data)


def samples(diffusion):
    count = 4000
    field = Field(exact_velocity, Interpolant("cosine"), torch.zeros(count, dtype=torch.long), torch.full((count,), 10))
    z, noise = SampleNoise(0, range(count)).draw((1, 2, 2)), SampleNoise(1, range(count))
    return EulerMaruyama(100, diffusion=diffusion)(field, z, noise)


def test_both_forms_reach_the_same_distribution_by_different_ways():
    linear, sigma = samples("linear"), samples("sigma")
    for sample in (linear, sigma):  # 16,000 values: standard errors 0.004 and 0.003; the rest is the step size's
        assert abs(sample.mean() - MEAN) < 0.02
        assert abs(sample.std() - SPREAD) < 0.02
    assert (linear - sigma).abs().max() > 0.1


def test_an_unknown_form_is_refused_with_the_known_ones():
    with pytest.raises(DiffxError, match=r"type sampler\.diffusion= one of linear, sigma"):
        EulerMaruyama(diffusion="constant")
