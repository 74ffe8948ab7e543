"""Samplers against fields whose answer is known, guidance, and noise that belongs to a sample."""

import pytest
import torch

from diffx.errors import DiffxError
from diffx.objective import Interpolant
from diffx.objective.interpolant import PATHS, PREDICTIONS
from diffx.sampler import Euler, EulerMaruyama, Field, Guidance, Heun, SampleNoise

MEAN, SPREAD = 0.7, 0.5  # of the Gaussian data that `exact_velocity` is the field of


def exact_velocity(x, t, y):
    """The velocity for data from N(MEAN, SPREAD²) on the linear path: E[ε − x₀ | x_t] of jointly Gaussian variables."""
    t = t.view(-1, 1, 1, 1)
    variance = (1 - t) ** 2 * SPREAD**2 + t**2
    centred = x - (1 - t) * MEAN
    return t * centred / variance - MEAN - (1 - t) * SPREAD**2 * centred / variance


def field(network, count=2, guidance=None) -> Field:
    return Field(network, Interpolant(), torch.zeros(count, dtype=torch.long), torch.full((count,), 10), guidance)


def start(count=2) -> torch.Tensor:
    return SampleNoise(0, range(count)).draw((1, 4, 4))


def error_of(sampler) -> float:
    """Against the exact solution: the flow maps noise z to MEAN + SPREAD z."""
    z = start()
    return (sampler(field(exact_velocity), z, None) - (MEAN + SPREAD * z)).abs().max().item()


def test_halving_the_step_halves_the_error_of_euler():
    assert 1.8 < error_of(Euler(40)) / error_of(Euler(80)) < 2.2


def test_both_forwards_of_a_heun_interval_are_guided_as_its_beginning_is():
    """At t = 1, .75, .5, .25 with guidance up to .7, the corrector of the interval from .75 to .5 is not guided."""
    rows = []

    def network(x, t, y):
        rows.append((round(t[0].item(), 2), len(x)))
        return torch.zeros_like(x)

    Heun(7)(field(network, guidance=Guidance(2.0, high=0.7)), start(), None)
    assert rows == [(1.0, 2), (0.75, 2), (0.75, 2), (0.5, 2), (0.5, 4), (0.25, 4), (0.25, 4)]


def test_halving_the_step_quarters_the_error_of_heun():
    """The last interval, uncorrected, adds an error of its length squared, so the order stays two."""
    assert 3.4 < error_of(Heun(79)) / error_of(Heun(159)) < 4.6


def test_heun_is_more_exact_than_euler_at_equal_forwards():
    assert error_of(Heun(39)) < 0.2 * error_of(Euler(39))


def test_euler_is_exact_for_a_constant_velocity():
    z = start()
    torch.testing.assert_close(Euler(7)(field(lambda x, t, y: torch.full_like(x, 3)), z, None), z - 3)


def test_eulers_shift_is_lightningdits_grid_of_points_in_our_time():
    calls = []
    Euler(5, shift=1 / 0.3)(field(lambda x, t, y: calls.append(t[0]) or x), start(), None)
    theirs = torch.linspace(0, 1, 6)[:-1]
    torch.testing.assert_close(torch.stack(calls), 1 - 0.3 * theirs / (1 - 0.7 * theirs))


def test_euler_maruyamas_shift_moves_all_its_times_towards_the_noise_as_sr_dits_sampler_does():
    calls = []
    EulerMaruyama(5, shift=2**0.5)(field(lambda x, t, y: calls.append(t[0]) or x), start(), SampleNoise(1, range(2)))
    even = torch.linspace(1, 0.04, 5)
    torch.testing.assert_close(torch.stack(calls), 2**0.5 * even / (1 + (2**0.5 - 1) * even))


@pytest.mark.parametrize(
    ("nfe", "sampler"), [(8, Euler(8)), (1, Euler(1)), (9, Heun(9)), (1, Heun(1)), (8, EulerMaruyama(8))]
)
def test_a_sampler_spends_exactly_its_number_of_forwards(sampler, nfe):
    calls = []

    def network(x, t, y):
        calls.append(t[0].item())
        return x

    counted = field(network)
    sampler(counted, start(), SampleNoise(1, range(2)))
    assert sampler.nfe == counted.nfe == len(calls) == nfe
    assert max(calls) == 1
    assert min(calls) > 0


def test_euler_maruyama_reaches_the_mean_and_the_variance_of_a_gaussian():
    count = 4000
    z, noise = SampleNoise(0, range(count)).draw((1, 2, 2)), SampleNoise(1, range(count))
    samples = EulerMaruyama(100)(field(exact_velocity, count), z, noise)
    # 16,000 values: standard errors 0.004 and 0.003; the rest is the step size's.
    assert abs(samples.mean() - MEAN) < 0.02
    assert abs(samples.std() - SPREAD) < 0.02


def test_euler_maruyama_is_stochastic_and_its_noise_is_the_one_handed_in():
    z = start()
    first, again, other = (EulerMaruyama(8)(field(exact_velocity), z, SampleNoise(s, range(2))) for s in (1, 1, 2))
    assert torch.equal(first, again)
    assert not torch.allclose(first, other, atol=1e-2)


def test_the_state_is_float64_and_the_network_sees_float32():
    seen = []

    def network(x, t, y):
        seen.extend([x.dtype, t.dtype])
        return x

    assert Euler(2)(field(network), start(), None).dtype == torch.float64
    assert set(seen) == {torch.float32}


@pytest.mark.parametrize(
    ("make", "setting"),
    [
        (lambda: Euler(0), "nfe=0"),
        (lambda: Euler(5, shift=0), "shift=0"),
        (lambda: Heun(50), "nfe=50"),
        (lambda: Heun(-2), "nfe=-2"),
        (lambda: EulerMaruyama(1), "nfe=1"),
        (lambda: EulerMaruyama(8, shift=0), "shift=0"),
        (lambda: EulerMaruyama(10, last_step=0), "last_step=0"),
        (lambda: EulerMaruyama(10, last_step=1), "last_step=1"),
        (lambda: Guidance(scale=-1), "scale=-1"),
        (lambda: Guidance(scale=float("nan")), "scale=nan"),
        (lambda: Guidance(low=0.5, high=0.2), "0.5, 0.2"),
        (lambda: Guidance(high=1.5), "1.5"),
    ],
)
def test_a_setting_that_cannot_work_is_refused_with_its_value(make, setting):
    with pytest.raises(DiffxError, match=setting):
        make()


def labels_as_output(x, t, y):
    """A network that outputs its label: conditional 1, unconditional 10."""
    labels_as_output.batches.append(len(x))
    return y.to(x.dtype).view(-1, 1, 1, 1).expand(-1, 8, 4, 4)


def guided(guidance: Guidance, t: float) -> torch.Tensor:
    labels_as_output.batches = []
    return guidance(labels_as_output, torch.zeros(2, 4, 4, 4), t, torch.ones(2, dtype=torch.long), torch.full((2,), 10))


def test_guidance_moves_from_the_unconditional_output_by_the_scale():
    assert torch.equal(guided(Guidance(3.0), 0.5), torch.full((2, 8, 4, 4), 10.0 + 3 * (1 - 10)))
    assert labels_as_output.batches == [4]


def test_a_scale_of_one_runs_one_forward_and_a_scale_of_zero_is_unconditional():
    assert torch.equal(guided(Guidance(1.0), 0.5), torch.ones(2, 8, 4, 4))
    assert labels_as_output.batches == [2]
    assert torch.equal(guided(Guidance(0.0), 0.5), torch.full((2, 8, 4, 4), 10.0))


@pytest.mark.parametrize(("t", "acts"), [(0.19, False), (0.2, True), (0.5, True), (0.7, True), (0.71, False)])
def test_the_guidance_interval_includes_both_ends(t, acts):
    guided(Guidance(2.0, low=0.2, high=0.7), t)
    assert labels_as_output.batches == [4 if acts else 2]


def test_guided_channels_come_first_and_the_rest_stay_conditional():
    out = guided(Guidance(2.0, channels=3), 0.5)
    assert torch.equal(out[:, :3], torch.full((2, 3, 4, 4), -8.0))
    assert torch.equal(out[:, 3:], torch.ones(2, 5, 4, 4))


def test_a_guided_forward_counts_once():
    counted = field(lambda x, t, y: x, guidance=Guidance(2.0))
    Euler(5)(counted, start(), None)
    assert counted.nfe == 5


def test_a_samples_noise_does_not_depend_on_how_the_batch_is_split():
    together = SampleNoise(3, range(6))
    halves = [SampleNoise(3, range(3)), SampleNoise(3, range(3, 6))]
    for shape in ((4, 2, 2), (4, 2, 2), (1,)):
        assert torch.equal(together.draw(shape), torch.cat([half.draw(shape) for half in halves]))


def test_samples_and_seeds_have_their_own_noise():
    noise = torch.stack([SampleNoise(seed, range(3)).draw((64,)) for seed in (0, 1)]).view(6, 64)
    assert (noise.corrcoef() - torch.eye(6)).abs().max() < 0.6


@pytest.mark.parametrize("sampler", [Euler(6), Heun(7), EulerMaruyama(6)])
def test_a_sample_is_the_same_in_any_batch(sampler):
    def sample(indices):
        start = SampleNoise(0, indices).draw((1, 4, 4))
        return sampler(field(exact_velocity, len(indices)), start, SampleNoise(1, indices))

    torch.testing.assert_close(sample([0, 1, 2, 3]), torch.cat([sample([0]), sample([1, 2, 3])]), atol=1e-6, rtol=0)


POINT = 0.7
"""All data are this number, so that a state says what its noise is."""


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("prediction", PREDICTIONS)
@pytest.mark.parametrize("floor", [0.0, 0.02])
@pytest.mark.parametrize(
    "sampler", [Euler(20), Euler(20, shift=3), Heun(19), EulerMaruyama(50)], ids=lambda s: type(s).__name__
)
def test_every_sampler_ends_at_the_data_on_every_path_and_for_every_prediction(path, prediction, floor, sampler):
    objective = Interpolant(path, prediction, floor=floor)

    def network(x_t, t, y):
        x, t = torch.full_like(x_t, POINT), t.view(-1, 1, 1, 1)
        alpha, sigma = objective.path.alpha(t), objective.path.sigma(t)
        return objective.target(x, (x_t - alpha * x) / sigma, t.flatten())

    points = Field(network, objective, torch.zeros(2, dtype=torch.long), torch.full((2,), 10))
    rng = torch.Generator().manual_seed(0)
    end = sampler(points, start(), lambda x: torch.randn(x.shape, generator=rng, dtype=x.dtype))
    # SDE and VP step over a velocity that has no bound at the data.
    loose = isinstance(sampler, EulerMaruyama) or path == "vp"
    torch.testing.assert_close(end, torch.full_like(end, POINT), atol=0.2 if loose else 0.05, rtol=0)


def test_a_shift_that_is_not_positive_is_refused_by_heun_too():
    with pytest.raises(DiffxError, match=r"sampler\.shift=0"):
        Heun(3, shift=0)
