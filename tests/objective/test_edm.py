"""The EDM objective and its sampler against the paper's formulas and exact solutions."""

import pytest
import torch

from diffx.errors import DiffxError
from diffx.objective import EDM, Interpolant
from diffx.sampler import EDMHeun, Euler, EulerMaruyama, Field, SampleNoise

MEAN, SPREAD = 0.7, 0.5


def test_noise_levels_are_log_normal():
    t = EDM(mean=-1.2, std=1.2).times(40_000, torch.Generator().manual_seed(0)).log()
    assert abs(t.mean() + 1.2) < 0.03
    assert abs(t.std() - 1.2) < 0.03


@pytest.mark.parametrize("sigma", [0.002, 0.5, 80.0])
def test_the_networks_input_and_its_target_have_unit_variance_at_every_noise_level(sigma):
    rng = torch.Generator().manual_seed(0)
    objective, t = EDM(), torch.full((4,), sigma)
    x = 0.5 * torch.randn(4, 1, 100, 100, generator=rng)
    noise = torch.randn(x.shape, generator=rng)
    x_t = objective.noised(x, noise, t)
    x_in, c_noise = objective.inputs(x_t, t)
    assert abs(x_in.std() - 1) < 0.02
    torch.testing.assert_close(c_noise, t.log() / 4)
    nothing, unit = objective.data(torch.zeros_like(x), x_t, t), objective.data(torch.ones_like(x), x_t, t)
    target = (x - nothing) / (unit - nothing)  # D is affine in the network's output
    assert abs(target.std() - 1) < 0.02


def test_a_network_that_outputs_nothing_has_a_loss_of_one_on_data_of_the_assumed_spread():
    rng = torch.Generator().manual_seed(0)
    x = 0.5 * torch.randn(4, 1, 100, 100, generator=rng)
    noise = torch.randn(x.shape, generator=rng)
    loss = EDM().loss(torch.zeros_like(x), x, noise, torch.tensor([0.01, 0.3, 2.0, 50.0]))
    assert (loss - 1).abs().max() < 0.05


def test_the_levels_go_from_80_to_0_002_and_end_at_0():
    levels = EDMHeun(79).sigmas()
    assert len(levels) == 41
    assert levels[0] == pytest.approx(80)
    assert levels[-2:] == [pytest.approx(0.002), 0]
    middle = (80 ** (1 / 7) + 13 / 39 * (0.002 ** (1 / 7) - 80 ** (1 / 7))) ** 7
    assert levels[13] == pytest.approx(middle)


class Exact:
    """A network whose preconditioned output is the best denoiser of data from N(MEAN, SPREAD²)."""

    def __init__(self, objective):
        self.objective = objective

    def __call__(self, x_in, c_noise, y):
        t = (4 * c_noise.double()).exp()
        sigma = t.view(-1, 1, 1, 1)
        x_t = x_in.double() * (sigma**2 + self.objective.sigma_data**2).sqrt()
        best = (SPREAD**2 * x_t + sigma**2 * MEAN) / (SPREAD**2 + sigma**2)
        nothing = self.objective.data(torch.zeros_like(x_t), x_t, t)
        return (best - nothing) / (self.objective.data(torch.ones_like(x_t), x_t, t) - nothing)


def sample(nfe, count=3):
    objective = EDM()
    field = Field(Exact(objective), objective, torch.zeros(count, dtype=torch.long), torch.full((count,), 10))
    z = SampleNoise(0, range(count)).draw((1, 4, 4))
    return EDMHeun(nfe)(field, z, None), z, field


def test_the_sampler_follows_the_exact_flow_of_gaussian_data_with_79_forwards():
    samples, z, field = sample(79)
    # The exact flow keeps (x − MEAN) / sqrt(SPREAD² + σ²); it starts at σ_max z.
    expected = MEAN + (80 * z - MEAN) * SPREAD / (SPREAD**2 + 80**2) ** 0.5
    assert (samples - expected).abs().max() < 1e-2
    assert field.nfe == 79


def test_the_sampler_is_of_second_order():
    exact = sample(1999)[0]
    errors = [(sample(nfe)[0] - exact).abs().max() for nfe in (39, 79)]
    assert 3 < errors[0] / errors[1] < 5


@pytest.mark.parametrize(
    ("objective", "sampler", "right"),
    [(EDM(), Euler(2), "edm"), (EDM(), EulerMaruyama(2), "edm"), (Interpolant(), EDMHeun(3), "euler")],
)
def test_a_sampler_of_another_objective_is_refused_and_the_right_one_named(objective, sampler, right):
    field = Field(lambda x, t, y: x, objective, torch.zeros(1, dtype=torch.long), torch.full((1,), 10))
    with pytest.raises(DiffxError, match=f"type sampler={right}"):
        sampler(field, torch.zeros(1, 1, 4, 4).double(), SampleNoise(0, range(1)))


def test_settings_out_of_range_are_refused():
    for make in (lambda: EDM(std=0), lambda: EDM(sigma_data=-1), lambda: EDMHeun(4), lambda: EDMHeun(sigma_min=90)):
        with pytest.raises(DiffxError):
            make()
