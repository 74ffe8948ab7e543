"""Interpolants: what a perfect network would say must be consistent, whatever it predicts and along every path."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from diffx.errors import DiffxError
from diffx.objective import Interpolant
from diffx.objective.interpolant import PATHS, PREDICTIONS

paths = pytest.mark.parametrize("path", PATHS)
predictions = pytest.mark.parametrize("prediction", PREDICTIONS)
inside = st.floats(0.05, 0.95)


def data_and_noise(seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    return torch.randn(2, 3, 2, 4, 4, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).unbind()


def at(t: float) -> torch.Tensor:
    return torch.full((3,), t, dtype=torch.float64)


def perfect(objective: Interpolant, x: torch.Tensor, noise: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
    """What a network that knows x and the noise outputs."""
    t = t.view(-1, 1, 1, 1)
    velocity = objective.path.d_alpha(t) * x + objective.path.d_sigma(t) * noise
    score = -noise / objective.path.sigma(t)
    return {"velocity": velocity, "noise": noise, "score": score, "data": x}[objective.prediction]


@paths
def test_a_path_starts_at_the_data_and_ends_at_the_noise(path):
    objective, (x, noise) = Interpolant(path), data_and_noise()
    torch.testing.assert_close(objective.noised(x, noise, at(0.0)), x)
    # VP ends with exp(-5.025), 0.7 % of the data, still there.
    torch.testing.assert_close(objective.noised(x, noise, at(1.0)), noise, atol=0.03, rtol=0)


@given(t=inside)
@paths
def test_the_derivatives_of_a_path_are_those_of_autograd(path, t):
    path, time = PATHS[path], torch.tensor(t, dtype=torch.float64, requires_grad=True)
    for value, slope in ((path.alpha, path.d_alpha), (path.sigma, path.d_sigma)):
        (expected,) = torch.autograd.grad(value(time), time)
        torch.testing.assert_close(slope(time), expected)


@given(t=inside)
@pytest.mark.parametrize("path", ["cosine", "vp"])
def test_the_variance_is_preserved_along_the_cosine_and_vp_paths(path, t):
    time = torch.tensor(t, dtype=torch.float64)
    assert math.isclose(PATHS[path].alpha(time) ** 2 + PATHS[path].sigma(time) ** 2, 1)


def test_the_linear_velocity_is_noise_minus_data():
    objective, (x, noise) = Interpolant(), data_and_noise()
    assert torch.equal(objective.loss(noise - x, x, noise, at(0.3)), torch.zeros(3, dtype=torch.float64))


@given(t=inside, seed=st.integers(0, 100))
@paths
@predictions
def test_a_perfect_prediction_has_no_loss_and_the_one_velocity_and_score(path, prediction, t, seed):
    objective, (x, noise), t = Interpolant(path, prediction), data_and_noise(seed), at(t)
    out, x_t = perfect(objective, x, noise, t), objective.noised(x, noise, t)
    assert objective.loss(out, x, noise, t).max() < 1e-20
    torch.testing.assert_close(objective.velocity(out, x_t, t), perfect(Interpolant(path), x, noise, t))
    torch.testing.assert_close(objective.score(out, x_t, t), perfect(Interpolant(path, "score"), x, noise, t))


@given(t=inside)
@paths
@predictions
def test_the_velocity_moves_along_the_path(path, prediction, t):
    objective, (x, noise), step = Interpolant(path, prediction), data_and_noise(), 1e-6
    x_t = objective.noised(x, noise, at(t))
    moved = objective.noised(x, noise, at(t + step))
    velocity = objective.velocity(perfect(objective, x, noise, at(t)), x_t, at(t))
    torch.testing.assert_close(x_t + step * velocity, moved, atol=1e-9, rtol=0)


@paths
def test_an_imperfect_velocity_keeps_velocity_and_score_consistent(path):
    """v = (α'/α) x_t + (σ α'/α − σ') σ s holds for any output, as one forward gives both."""
    objective, (x, noise), t = Interpolant(path), data_and_noise(), at(0.4)
    x_t, out = objective.noised(x, noise, t), data_and_noise(7)[0]
    p, time = objective.path, t.view(-1, 1, 1, 1)
    ratio = p.d_alpha(time) / p.alpha(time)
    score = objective.score(out, x_t, t)
    torch.testing.assert_close(out, ratio * x_t + (p.sigma(time) * ratio - p.d_sigma(time)) * p.sigma(time) * score)


def test_the_loss_is_a_mean_over_each_samples_elements():
    objective, (x, noise) = Interpolant(), data_and_noise()
    out = noise - x + torch.tensor([0.0, 1.0, 2.0]).view(-1, 1, 1, 1)
    torch.testing.assert_close(objective.loss(out, x, noise, at(0.5)), torch.tensor([0.0, 1.0, 4.0]).double())


def test_the_second_half_of_a_learned_sigma_output_is_ignored():
    objective, (x, noise), t = Interpolant(), data_and_noise(), at(0.5)
    out = torch.cat([noise - x, torch.full_like(x, 9)], dim=1)
    assert objective.loss(out, x, noise, t).max() < 1e-20
    assert objective.velocity(out, x, t).shape == x.shape


@given(seed=st.integers(0, 100))
@paths
@predictions
@pytest.mark.parametrize("times", ["uniform", "lognormal"])
def test_times_stay_where_the_loss_is_finite(path, prediction, times, seed):
    objective = Interpolant(path, prediction, times)
    t = objective.times(1000, torch.Generator().manual_seed(seed))
    x = torch.ones(1000, 1, 1, 1)
    assert t.min() >= 0
    assert t.max() <= 1
    assert objective.loss(x, x, x, t).isfinite().all()


def test_velocity_on_the_linear_path_draws_from_all_of_zero_to_one():
    t = Interpolant().times(100_000, torch.Generator().manual_seed(0))
    assert t.min() < 1e-3
    assert t.max() > 1 - 1e-3
    assert abs(t.mean() - 0.5) < 0.01


@pytest.mark.parametrize("path", ["linear", "cosine"])
def test_lognormal_times_make_the_log_of_sigma_over_alpha_standard_normal(path):
    objective = Interpolant(path, times="lognormal")
    t = objective.times(100_000, torch.Generator().manual_seed(0)).double()
    ratio = (objective.path.sigma(t) / objective.path.alpha(t)).log()
    assert abs(ratio.mean()) < 0.02
    assert abs(ratio.std() - 1) < 0.02


def test_a_shift_moves_times_towards_noise_and_leaves_the_ends():
    rng = torch.Generator().manual_seed(0)
    plain, shifted = Interpolant().times(1000, rng), Interpolant(shift=3).times(1000, rng.manual_seed(0))
    torch.testing.assert_close(shifted, 3 * plain / (1 + 2 * plain))
    assert (shifted >= plain).all()
    assert shifted.max() <= 1


@pytest.mark.parametrize("setting", [{"path": "line"}, {"prediction": "eps"}, {"times": "normal"}, {"shift": 0.0}])
def test_an_unknown_setting_is_refused_with_its_key(setting):
    with pytest.raises(DiffxError, match=f"objective.{next(iter(setting))}="):
        Interpolant(**setting)
