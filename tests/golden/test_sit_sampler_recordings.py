"""Agreement with willisma/SiT's adaptive ODE and its SDE with linear diffusion; see test_sit_recordings for time."""

import pytest
import torch
from recordings import Recording, assert_agrees, load, plain_backbone

from diffx.objective import Interpolant
from diffx.sampler import Dopri5, EulerMaruyama, Field


@pytest.fixture(scope="module")
def sit() -> Recording:
    return load("sit")


@pytest.fixture
def field(sit: Recording) -> Field:
    backbone = plain_backbone(sit, learn_sigma=True)

    def network(x, t, y):
        return -backbone(x, 1 - t, y)

    return Field(network, Interpolant(), sit["y"], backbone.null_condition(sit["y"]))


@torch.no_grad()
def test_dopri5_ends_at_the_recorded_point(sit, field):
    sample = Dopri5(rtol=1e-6, atol=1e-8)(field, sit["sample_init"].double(), None)
    assert_agrees(sample, sit["ode_dopri5"], 1e-4)


@torch.no_grad()
def test_dopri5_spends_more_forwards_on_a_smaller_tolerance_and_counts_them(sit, field):
    start = sit["sample_init"].double()
    rough = Dopri5(rtol=1e-2, atol=1e-2)(field, start, None)
    spent, field.nfe = field.nfe, 0
    exact = Dopri5(rtol=1e-6, atol=1e-6)(field, start, None)
    assert 6 < spent < field.nfe
    assert 0 < (rough - exact).abs().max() < 0.1


@torch.no_grad()
@pytest.mark.parametrize("diffusion", ["linear", "sigma"])
def test_the_sde_with_linear_diffusion_agrees_and_is_the_sigma_form_on_the_linear_path(sit, field, diffusion):
    draws = iter(sit["sde_linear_10.noises"])
    sampler = EulerMaruyama(10, last_step=0.04, diffusion=diffusion)
    sample = sampler(field, sit["sample_init"].double(), lambda x: next(draws))
    assert_agrees(sample, sit["sde_linear_10"], 1e-4)
    assert next(draws, None) is None
