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


@given(t=inside, seed=st.integers(0, 100))
@paths
@predictions
def test_an_error_on_velocities_is_the_squared_difference_of_the_velocities(path, prediction, t, seed):
    objective, (x, noise), t = Interpolant(path, prediction, error="velocity"), data_and_noise(seed), at(t)
    out, x_t = data_and_noise(seed + 1)[0], objective.noised(x, noise, t)
    wanted = (objective.velocity(out, x_t, t) - perfect(Interpolant(path), x, noise, t)).square()
    torch.testing.assert_close(objective.errors(out, x, noise, t), wanted)


@given(t=st.floats(0, 1), seed=st.integers(0, 100))
def test_predicted_data_is_compared_over_the_time_or_the_floor(t, seed):
    """((x_t − out) − (x_t − x)) / max(t, 0.05), as JiT and RAEv2 write it."""
    objective = Interpolant(prediction="data", error="velocity", floor=0.05)
    (x, noise), out, t = data_and_noise(seed), data_and_noise(seed + 1)[0], at(t)
    x_t, divisor = objective.noised(x, noise, t), t.clamp(min=0.05).view(-1, 1, 1, 1)
    torch.testing.assert_close(objective.velocity(out, x_t, t), (x_t - out) / divisor)
    torch.testing.assert_close(objective.errors(out, x, noise, t), ((x - out) / divisor).square())
    assert torch.equal(objective.loss(x, x, noise, t), torch.zeros(3, dtype=torch.float64))


@paths
@predictions
@pytest.mark.parametrize("error", ["output", "velocity"])
def test_with_the_min_snr_weight_one_prediction_has_one_loss_however_it_is_given(path, prediction, error):
    """min(SNR, γ) times the squared error of the data (Hang et al. 2023, section 3)."""
    (x, noise), t = data_and_noise(), torch.tensor([0.1, 0.4, 0.8], dtype=torch.float64)
    objective, guess = Interpolant(path, prediction, error=error, min_snr=5), x + 0.3 * data_and_noise(3)[0]
    alpha, sigma = (part(t).view(-1, 1, 1, 1) for part in (objective.path.alpha, objective.path.sigma))
    noise_of_guess = (objective.noised(x, noise, t) - alpha * guess) / sigma
    out = perfect(objective, guess, noise_of_guess, t)
    wanted = (alpha / sigma).square().clamp(max=5) * (guess - x).square()
    torch.testing.assert_close(objective.errors(out, x, noise, t), wanted)


def test_the_min_snr_weight_on_noise_is_ddpms():
    x, noise = data_and_noise()
    t = torch.tensor([0.02, 0.5, 0.98], dtype=torch.float64)
    snr = ((1 - t) / t).square()
    plain, weighted = (Interpolant(prediction="noise", min_snr=g).loss(x, x, noise, t) for g in (None, 5))
    torch.testing.assert_close(weighted, plain * snr.clamp(max=5) / snr)


@pytest.mark.parametrize("path", ["linear", "cosine"])
@predictions
def test_with_a_floor_all_of_zero_to_one_is_drawn_and_losses_are_finite_at_the_ends(path, prediction):
    objective = Interpolant(path, prediction, error="velocity", floor=0.05, min_snr=5)
    x, t = torch.ones(2, 1, 1, 1), torch.tensor([0.0, 1.0])
    assert objective.ends == (0, 1)
    assert objective.loss(2 * x, x, x, t).isfinite().all()
    assert objective.velocity(2 * x, x, t).isfinite().all()


@pytest.mark.parametrize("path", ["linear", "cosine"])
def test_lognormal_times_have_the_mean_and_the_deviation_that_are_set(path):
    objective = Interpolant(path, times="lognormal", mean=0.8, std=0.5)
    t = objective.times(100_000, torch.Generator().manual_seed(0)).double()
    ratio = (objective.path.sigma(t) / objective.path.alpha(t)).log()
    assert abs(ratio.mean() - 0.8) < 0.01
    assert abs(ratio.std() - 0.5) < 0.01


@pytest.mark.parametrize("path", ["linear", "cosine"])
def test_truncated_times_are_the_lognormal_ones_that_lie_inside(path):
    """Drawn by the inverse distribution function; compared with what rejection leaves, and the shift comes after."""
    whole = Interpolant(path, times="lognormal").times(200_000, torch.Generator().manual_seed(0))
    wanted = whole[(whole > 0.2) & (whole < 0.5)]
    cut = Interpolant(path, times="lognormal", truncate=(0.2, 0.5))
    drawn = cut.times(100_000, torch.Generator().manual_seed(1))
    assert (drawn.min(), drawn.max()) == pytest.approx((0.2, 0.5), abs=1e-3)
    quantiles = torch.linspace(0.05, 0.95, 19)
    torch.testing.assert_close(drawn.quantile(quantiles), wanted.quantile(quantiles), atol=3e-3, rtol=0)
    shifted = Interpolant(path, times="lognormal", truncate=(0.2, 0.5), shift=3)
    torch.testing.assert_close(shifted.times(100_000, torch.Generator().manual_seed(1)), 3 * drawn / (1 + 2 * drawn))


@pytest.mark.parametrize(
    "setting",
    [{"truncate": (0.5, 0.5)}, {"truncate": (0.5,)}, {"std": 0.0}, {"floor": 1.0}, {"min_snr": 0}, {"error": "noise"}],
)
def test_a_number_that_cannot_be_is_refused_with_its_key(setting):
    with pytest.raises(DiffxError, match=f"objective.{next(iter(setting))}="):
        Interpolant(times="lognormal", **setting)


@pytest.mark.parametrize("setting", [{"truncate": (0.1, 0.9)}, {"std": 0.5}, {"mean": -0.4}])
def test_a_setting_of_lognormal_times_is_refused_where_times_are_uniform(setting):
    with pytest.raises(DiffxError, match=r"type objective\.times=lognormal"):
        Interpolant(**setting)


@pytest.mark.parametrize("setting", [{"path": "line"}, {"prediction": "eps"}, {"times": "normal"}, {"shift": 0.0}])
def test_an_unknown_setting_is_refused_with_its_key(setting):
    with pytest.raises(DiffxError, match=f"objective.{next(iter(setting))}="):
        Interpolant(**setting)
