"""DDPM, with a learned variance: DiT's and MDT's objective (Ho et al. 2020; Nichol & Dhariwal 2021, arXiv 2102.09672).

Time is a step 0..999, 0 nearest to the data. The network gives 2C channels: the noise, and where the reverse step's
log variance lies between its two bounds.
"""

import math
from typing import NamedTuple

import torch
from torch import Tensor

from diffx.errors import DiffxError
from diffx.objective.times import expand_times

STEPS = 1000
BETAS = ("linear", "sqrt_linear")
VARIANCES = ("learned", "fixed")


def make_betas(name: str) -> Tensor:
    """β (1000,) float64: "linear" from 1e-4 to 0.02 (DiT), or "sqrt_linear", whose roots are linear and whose ends are
    0.00085 and 0.012 (Stable Diffusion, U-ViT)."""
    if name == "linear":
        return torch.linspace(1e-4, 0.02, STEPS, dtype=torch.float64, device="cpu")
    return torch.linspace(0.00085**0.5, 0.012**0.5, STEPS, dtype=torch.float64, device="cpu").square()


class Chain(NamedTuple):
    """The reverse Markov chain over K steps, each entry (K,) float64.

    alpha_bar, sigma2: the squared weights ᾱ of the data and 1 − ᾱ of the noise in x_t. from_data, from_state: weights
    of x and x_t in the mean of q(x_{t-1} | x_t, x). log_low, log_high: its log variance and log β, the bounds between
    which the learned log variance lies.
    """

    alpha_bar: Tensor
    sigma2: Tensor
    from_data: Tensor
    from_state: Tensor
    log_low: Tensor
    log_high: Tensor


def make_chain(alpha_bar: Tensor) -> Chain:
    """The chain over steps with these ᾱ (K,), rising in noise (eq. 6 and 7 of Ho et al.; K = 1000, or a respacing)."""
    before = torch.cat([alpha_bar.new_ones(1), alpha_bar[:-1]])
    alpha = alpha_bar / before
    beta = 1 - alpha
    variance = beta * (1 - before) / (1 - alpha_bar)
    # q's variance is 0 at the step nearest to the data: the next one stands in for it.
    log_low = torch.cat([variance[1:2], variance[1:]]).log()
    from_data = beta * before.sqrt() / (1 - alpha_bar)
    from_state = (1 - before) * alpha.sqrt() / (1 - alpha_bar)
    return Chain(alpha_bar, 1 - alpha_bar, from_data, from_state, log_low, beta.log())


class DDPM:
    """1000 steps: the noise's mean squared error plus the variational term.

    min_snr: γ of the min-SNR weight min(SNR, γ) / SNR on the squared error alone (Hang et al. 2023; MDTv2 has 5), None
    for none. betas: as of make_betas. variance: "learned", which needs a backbone with learn_sigma=true; or "fixed" at
    its lower bound, without the variational term (L_simple of Ho et al.; U-ViT).
    """

    gives = frozenset({"score", "data", "chain"})
    samplers = "ancestral"
    ends = (0.0, 1.0)

    def __init__(self, min_snr: float | None = None, betas: str = "linear", variance: str = "learned") -> None:
        for key, value, choices in [("betas", betas, BETAS), ("variance", variance, VARIANCES)]:
            if value not in choices:
                raise DiffxError(
                    f"objective.{key}={value} is not known; type objective.{key}= one of {', '.join(choices)}."
                )
        if min_snr is not None and not min_snr > 0:
            raise DiffxError(f"objective.min_snr={min_snr} must be positive; type 5, or null for no weight.")
        self.min_snr, self.learned = min_snr, variance == "learned"
        self.chain = make_chain((1 - make_betas(betas)).cumprod(0))
        self._table = torch.stack(self.chain, dim=1).float()

    def times(self, count: int, rng: torch.Generator) -> Tensor:
        """Steps (count,) drawn uniformly, int64."""
        self._table = self._table.to(rng.device)  # copied once, or every loss would wait for it
        return torch.randint(STEPS, (count,), generator=rng, device=rng.device)

    def noised(self, x: Tensor, noise: Tensor, t: Tensor) -> Tensor:
        """x_t (B, C, H, W) at steps t (B,)."""
        at = self._at(t, x)
        return at.alpha_bar.sqrt() * x + at.sigma2.sqrt() * noise

    def inputs(self, x_t: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        """The network is fed the state and the step as they are."""
        return x_t, t

    def target(self, x: Tensor, noise: Tensor, t: Tensor) -> Tensor:
        """The noise, which the first half of the network's channels is compared with."""
        return noise

    def errors(self, out: Tensor, x: Tensor, noise: Tensor, t: Tensor) -> Tensor:
        """The terms of loss() before the mean over a sample (B, C, H, W)."""
        error = (self._noise(out, noise) - noise).square()
        if self.min_snr is not None:
            error = error * self._snr_weight(expand_times(t, error))
        return error + self._variational_terms(out, x, noise, t) if self.learned else error

    def loss(self, out: Tensor, x: Tensor, noise: Tensor, t: Tensor) -> Tensor:
        """Per sample (B,): the weighted squared error plus the variational term of a learned variance.

        Raises:
            DiffxError: the network has no channels for the variance.
        """
        error = self.squared_error(out, noise, t)
        return error + self.variational_term(out, x, noise, t) if self.learned else error

    def squared_error(self, out: Tensor, noise: Tensor, t: Tensor) -> Tensor:
        """Mean squared error of the noise per sample (B,), with the min-SNR weight where one is set."""
        error = (self._noise(out, noise) - noise).square().flatten(1).mean(1)
        if self.min_snr is None:
            return error
        at = self._at(t, error)
        snr = at.alpha_bar / at.sigma2
        return error * snr.clamp(max=self.min_snr) / snr

    def _snr_weight(self, t: Tensor) -> Tensor:
        assert self.min_snr is not None
        at = self._at(t, t)
        snr = at.alpha_bar / at.sigma2
        return snr.clamp(max=self.min_snr) / snr

    def variational_term(self, out: Tensor, x: Tensor, noise: Tensor, t: Tensor) -> Tensor:
        """KL(q(x_{t-1} | x_t, x), p(x_{t-1} | x_t)) per sample (B,) in bits per dimension; at t = 0 the decoder's
        negative log-likelihood of x on 256 levels in [−1, 1]. It trains the variance alone: the mean is detached."""
        return self._variational_terms(out, x, noise, t).flatten(1).mean(1)

    def _variational_terms(self, out: Tensor, x: Tensor, noise: Tensor, t: Tensor) -> Tensor:
        predicted, fraction = _noise_and_fraction(out, x)
        at, x_t = self._at(t, x), self.noised(x, noise, t)
        true_mean = at.from_data * x + at.from_state * x_t
        mean = at.from_data * self._clean(predicted.detach(), x_t, at) + at.from_state * x_t
        log_variance = learned_log_variance(fraction, at)
        divergence = _gaussian_kl(true_mean, at.log_low, mean, log_variance)
        decoder = -_discretised_log_likelihood(x, mean, log_variance / 2)
        return torch.where(expand_times(t, x) == 0, decoder, divergence) / math.log(2)

    def velocity(self, out: Tensor, x_t: Tensor, t: Tensor) -> Tensor:
        """Refused: steps are not a continuous time."""
        raise DiffxError("objective=ddpm is a chain of 1000 steps, not an ODE in time; type sampler=ancestral.")

    def score(self, out: Tensor, x_t: Tensor, t: Tensor) -> Tensor:
        """∇ log p_t (B, C, H, W)."""
        return -self._noise(out, x_t) / self._at(t, x_t).sigma2.sqrt()

    def data(self, out: Tensor, x_t: Tensor, t: Tensor) -> Tensor:
        """The clean x (B, C, H, W) that the predicted noise stands for."""
        return self._clean(self._noise(out, x_t), x_t, self._at(t, x_t))

    def log_variance(self, out: Tensor, x: Tensor, at: Chain) -> Tensor:
        """Log variance (B, C, H, W) of the reverse step from the state x, as the network has it or fixed."""
        if not self.learned:
            return torch.ones_like(x) * at.log_low
        return learned_log_variance(_noise_and_fraction(out, x)[1], at)

    def position(self, t: float) -> float:
        return t / STEPS

    def sigma(self, t: float) -> float:
        return math.sqrt(self.chain.sigma2[int(t)].item())

    def _noise(self, out: Tensor, x: Tensor) -> Tensor:
        """The predicted noise, shaped as x: all that the network gives, or its first half."""
        return _noise_and_fraction(out, x)[0] if self.learned else out[:, : x.shape[1]]

    @staticmethod
    def _clean(noise: Tensor, x_t: Tensor, at: Chain) -> Tensor:
        return (x_t - at.sigma2.sqrt() * noise) / at.alpha_bar.sqrt()

    def _at(self, t: Tensor, x: Tensor) -> Chain:
        """The chain's entries at steps t (B,), or a map of steps, each shaped to go with x (B, ...)."""
        return Chain(*(expand_times(row, x) for row in self._table.to(t.device)[t.long()].unbind(-1)))


def learned_log_variance(fraction: Tensor, at: Chain) -> Tensor:
    """Log variance of the reverse step where the network's second half of channels is `fraction` in [−1, 1]."""
    share = (fraction + 1) / 2
    return share * at.log_high + (1 - share) * at.log_low


def _noise_and_fraction(out: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
    if out.shape[1] != 2 * x.shape[1]:
        raise DiffxError(
            f"objective=ddpm learns a variance and needs {2 * x.shape[1]} channels from the network, which gives "
            f"{out.shape[1]}; type backbone.learn_sigma=true."
        )
    noise, fraction = out.chunk(2, dim=1)
    return noise, fraction


def _gaussian_kl(mean: Tensor, log_variance: Tensor, other_mean: Tensor, other_log_variance: Tensor) -> Tensor:
    """KL between normal distributions, element by element, in nats."""
    gap = (mean - other_mean).square() * (-other_log_variance).exp()
    return 0.5 * (other_log_variance - log_variance - 1 + (log_variance - other_log_variance).exp() + gap)


def _discretised_log_likelihood(x: Tensor, mean: Tensor, log_sigma: Tensor) -> Tensor:
    """log P of x under a normal cut into 255 bins of width 2/255, the outer two open, as for images (Ho et al. eq. 13).

    The normal's distribution function is the tanh approximation that DiT's code has, which its values need.
    """
    half_bin, centred, scale = 1 / 255, x - mean, (-log_sigma).exp()
    upper, lower = _normal_cdf(scale * (centred + half_bin)), _normal_cdf(scale * (centred - half_bin))
    inner = torch.where(x > 0.999, 1 - lower, upper - lower)
    return torch.where(x < -0.999, upper, inner).clamp(min=1e-12).log()


def _normal_cdf(x: Tensor) -> Tensor:
    return 0.5 * (1 + torch.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))
