"""The DDPM objective against formulas written a second way."""

import math

import pytest
import torch
from diffusers import DDPMScheduler
from torch.distributions import Normal, kl_divergence

from diffx.errors import DiffxError
from diffx.objective import DDPM
from diffx.objective.ddpm import make_chain
from diffx.sampler import Ancestral, Euler, Field, SampleNoise
from diffx.sampler.ancestral import respaced_steps
from diffx.testing import tiny_backbone

MEAN, SPREAD = 0.7, 0.5  # of the Gaussian data whose best denoiser is `exact`


@pytest.fixture
def batch():
    rng = torch.Generator().manual_seed(0)
    x, noise = torch.randn(2, 4, 2, 3, 3, generator=rng).unbind(0)
    out = 0.5 * torch.randn(4, 4, 3, 3, generator=rng)
    return out, x, noise, torch.tensor([1, 40, 500, 999])


def test_the_variational_term_is_the_divergence_of_two_normals_in_bits(batch):
    out, x, noise, t = batch
    objective = DDPM()
    betas = torch.linspace(1e-4, 0.02, 1000, dtype=torch.float64)
    alpha_bar = torch.cumprod(1 - betas, 0)
    expected = []
    for k, step in enumerate(t.tolist()):
        now, before, beta = alpha_bar[step], alpha_bar[step - 1], betas[step]
        x_t = now.sqrt() * x[k] + (1 - now).sqrt() * noise[k]
        predicted, fraction = out[k].double().chunk(2)

        def reverse_mean(eps, x_t=x_t, now=now, beta=beta):  # eq. 11 of Ho et al., another form of the posterior mean
            return (x_t - beta / (1 - now).sqrt() * eps) / (1 - beta).sqrt()

        posterior = beta * (1 - before) / (1 - now)
        log_variance = (fraction + 1) / 2 * beta.log() + (1 - fraction) / 2 * posterior.log()
        true = Normal(reverse_mean(noise[k].double()), posterior.sqrt())
        model = Normal(reverse_mean(predicted), (log_variance / 2).exp())
        expected.append(kl_divergence(true, model).mean() / math.log(2))
    torch.testing.assert_close(
        objective.variational_term(out, x, noise, t), torch.stack(expected).float(), rtol=2e-3, atol=1e-4
    )


@pytest.mark.parametrize("values", [[-1.0, -1.0, -1.0], [-0.2, 0.0, 0.504], [1.0, 1.0, 1.0]])
def test_at_step_0_it_is_the_likelihood_of_the_data_on_256_levels(values):
    """Against bins of the exact normal distribution; the objective's tanh approximates it to about 1e-3."""
    x = torch.tensor(values).view(1, 1, 1, 3)
    rng = torch.Generator().manual_seed(0)
    noise, fraction = torch.randn(2, 1, 1, 1, 3, generator=rng).unbind(0)
    out = torch.cat([noise + 0.1, fraction.clamp(-1, 1)], dim=1)
    betas = torch.linspace(1e-4, 0.02, 1000, dtype=torch.float64)
    alpha_bar = torch.cumprod(1 - betas, 0)
    low = betas[1] * (1 - alpha_bar[0]) / (1 - alpha_bar[1])  # step 0 borrows the posterior variance of step 1
    log_variance = (out[:, 1:] + 1) / 2 * betas[0].log() + (1 - out[:, 1:]) / 2 * low.log()
    clean = x - (1 / alpha_bar[0] - 1).sqrt() * 0.1  # at step 0 the mean is the predicted data
    model = Normal(clean, (log_variance / 2).exp())
    upper = torch.where(x == 1, 1.0, model.cdf(x + 1 / 255))
    lower = torch.where(x == -1, 0.0, model.cdf(x - 1 / 255))
    expected = -(upper - lower).log2().mean()
    actual = DDPM().variational_term(out, x, noise, torch.tensor([0]))[0]
    torch.testing.assert_close(actual, expected.float(), rtol=5e-3, atol=0)


def test_the_variational_term_trains_the_variance_alone(batch):
    out, x, noise, t = batch
    out.requires_grad_()
    DDPM().variational_term(out, x, noise, t).sum().backward()
    assert not out.grad[:, :2].any()
    assert out.grad[:, 2:].all()


def test_min_snr_weighs_the_squared_error_and_nothing_else(batch):
    out, x, noise, t = batch
    plain, weighted = DDPM(), DDPM(min_snr=5)
    alpha_bar = plain.chain.alpha_bar[t]
    snr = alpha_bar / (1 - alpha_bar)
    ratio = weighted.squared_error(out, noise, t) / plain.squared_error(out, noise, t)
    torch.testing.assert_close(ratio, (5 / snr).clamp(max=1).float(), rtol=1e-5, atol=0)
    assert ratio[0] < 0.01
    assert torch.equal(weighted.variational_term(out, x, noise, t), plain.variational_term(out, x, noise, t))


def test_the_signal_to_noise_ratio_exceeds_5_in_130_of_the_1000_steps():
    alpha_bar = DDPM().chain.alpha_bar
    assert int((alpha_bar / (1 - alpha_bar) > 5).sum()) == 130


def test_times_are_whole_steps_from_0_to_999_each_equally_likely():
    t = DDPM().times(50_000, torch.Generator().manual_seed(0))
    assert t.dtype == torch.int64
    assert (t.min(), t.max()) == (0, 999)
    assert abs(t.double().mean() - 499.5) < 5  # four standard errors of 1.3


def test_noise_predicted_exactly_gives_back_the_data(batch):
    _, x, noise, t = batch
    objective = DDPM()
    out = torch.cat([noise, noise], dim=1).double()
    torch.testing.assert_close(objective.data(out, objective.noised(x.double(), noise.double(), t), t), x.double())


def test_respacing_to_250_steps_rounds_a_stride_of_4_012():
    steps = respaced_steps(250)
    assert steps[:3] == [0, 4, 8]
    assert steps[-2:] == [995, 999]
    assert len(set(steps)) == 250


def test_respacing_to_all_steps_changes_nothing():
    chain = DDPM().chain
    assert respaced_steps(1000) == list(range(1000))
    for entry, again in zip(chain, make_chain(chain.alpha_bar[respaced_steps(1000)]), strict=True):
        assert torch.equal(entry, again)


def exact(x, t, y):
    """The noise expected behind x_t for data from N(MEAN, SPREAD²), with the reverse step's variance at β."""
    alpha_bar = DDPM().chain.alpha_bar[t.long()].view(-1, 1, 1, 1)
    variance = alpha_bar * SPREAD**2 + 1 - alpha_bar
    noise = (1 - alpha_bar).sqrt() * (x - alpha_bar.sqrt() * MEAN) / variance
    return torch.cat([noise, torch.ones_like(noise)], dim=1)


def test_ancestral_sampling_reaches_the_mean_and_the_spread_of_gaussian_data():
    count = 2000
    z, noise = SampleNoise(0, range(count)).draw((1, 2, 2)), SampleNoise(1, range(count))
    field = Field(exact, DDPM(), torch.zeros(count, dtype=torch.long), torch.full((count,), 10))
    samples = Ancestral(100)(field, z, noise)
    # 8,000 values: standard errors 0.006 and 0.004; the rest is the step size's.
    assert abs(samples.mean() - MEAN) < 0.03
    assert abs(samples.std() - SPREAD) < 0.03
    assert field.nfe == 100


def test_a_backbone_without_learned_variance_is_refused_with_the_setting_to_type(batch):
    _, x, noise, t = batch
    with pytest.raises(DiffxError, match=r"gives 2; type backbone\.learn_sigma=true"):
        DDPM().loss(noise, x, noise, t)


def test_an_ode_sampler_is_refused_and_the_right_sampler_named():
    backbone = tiny_backbone(learn_sigma=True)
    field = Field(backbone, DDPM(), torch.zeros(1, dtype=torch.long), torch.full((1,), 10))
    with pytest.raises(DiffxError, match="type sampler=ancestral"), torch.no_grad():
        Euler(2)(field, torch.zeros(1, 4, 8, 8).double(), None)


@pytest.mark.parametrize("nfe", [0, 1, 1001])
def test_a_number_of_steps_that_1000_cannot_be_respaced_to_is_refused(nfe):
    with pytest.raises(DiffxError, match=f"nfe={nfe} is not from 2 to 1000"):
        Ancestral(nfe)


def test_a_min_snr_that_is_not_positive_is_refused():
    with pytest.raises(DiffxError, match="min_snr=0 must be positive"):
        DDPM(min_snr=0)


def test_uvits_betas_are_the_squares_of_equally_spaced_roots():
    """Stable Diffusion's schedule, as diffusers has it."""
    theirs = DDPMScheduler(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear")
    torch.testing.assert_close(DDPM(betas="sqrt_linear").chain.alpha_bar.float(), theirs.alphas_cumprod)


def test_with_a_fixed_variance_the_loss_is_the_noises_squared_error_alone(batch):
    out, x, noise, t = batch
    objective = DDPM(variance="fixed")
    wanted = (out[:, :2] - noise).square().mean((1, 2, 3))
    for given in (out, out[:, :2]):  # with or without channels for a variance
        torch.testing.assert_close(objective.loss(given, x, noise, t), wanted)
        torch.testing.assert_close(objective.errors(given, x, noise, t).mean((1, 2, 3)), wanted)


def test_a_step_with_a_fixed_variance_is_as_wide_as_the_posterior_of_its_chain():
    """diffusers' fixed_small, over 10 of the 1000 steps: the spread that one state's draws have."""
    objective, x = DDPM(variance="fixed"), torch.zeros(1, 1, 1, 1, dtype=torch.float64)
    chain = make_chain(objective.chain.alpha_bar[respaced_steps(10)])
    before, now = chain.alpha_bar[3], chain.alpha_bar[4]
    posterior = (1 - before) / (1 - now) * (1 - now / before)
    at = type(chain)(*(entry[4].item() for entry in chain))
    torch.testing.assert_close(objective.log_variance(x, x, at).squeeze(), posterior.log())


@pytest.mark.parametrize(("key", "value"), [("betas", "cosine"), ("variance", "none")])
def test_an_unknown_schedule_or_variance_is_refused_with_the_known_ones(key, value):
    with pytest.raises(DiffxError, match=rf"objective.{key}={value} is not known; type objective.{key}= one of"):
        DDPM(**{key: value})
