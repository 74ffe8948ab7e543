"""Dispersive loss: images of a batch are pushed apart."""

import math

import pytest
import torch

from diffx.errors import DiffxError
from diffx.testing import TinyRun, tiny_backbone
from diffx.tokens import Tokens
from diffx_plugins.dispersive import Dispersive
from diffx_plugins.tread import TREAD


def test_it_is_the_logarithm_of_the_mean_over_all_pairs_the_diagonal_among_them():
    plugin, x = Dispersive(2, temperature=0.5), torch.randn(3, 16, 32)
    plugin.setup(tiny_backbone())
    pairs = [math.exp(-(a - b).square().mean().item() / 0.5) for a in x for b in x]
    assert plugin.loss({2: Tokens(x)}, x, {}).item() == pytest.approx(math.log(sum(pairs) / 9), rel=1e-5)


def test_a_hinge_is_the_mean_of_squared_shortfalls_from_the_margin():
    plugin, x = Dispersive(2, form="hinge", margin=2.5), torch.randn(3, 16, 32)
    plugin.setup(tiny_backbone())
    pairs = [max(0, 2.5 - (a - b).square().mean().item()) ** 2 for a in x for b in x]
    assert plugin.loss({2: Tokens(x)}, x, {}).item() == pytest.approx(sum(pairs) / 9, rel=1e-5)


def test_the_cosine_distance_is_minus_the_cosine():
    plugin, x = Dispersive(2, distance="cosine", temperature=0.5), torch.randn(3, 16, 32)
    plugin.setup(tiny_backbone())
    pairs = [math.exp(torch.cosine_similarity(a.flatten(), b.flatten(), dim=0).item() / 0.5) for a in x for b in x]
    assert plugin.loss({2: Tokens(x)}, x, {}).item() == pytest.approx(math.log(sum(pairs) / 9), rel=1e-5)


def test_the_covariance_form_is_the_sum_of_squares_off_the_diagonal_of_the_covariance_matrix():
    plugin, x = Dispersive(2, form="covariance"), torch.randn(5, 4, 6)
    plugin.setup(tiny_backbone())
    matrix = torch.cov(x.flatten(1).T)
    matrix.fill_diagonal_(0)
    assert plugin.loss({2: Tokens(x)}, x, {}).item() == pytest.approx(matrix.square().sum().item() / 24, rel=1e-4)


@pytest.mark.parametrize("form", ["infonce", "hinge"])
def test_images_that_are_alike_are_dearer_than_images_apart(form):
    plugin, x = Dispersive(2, form=form), torch.randn(4, 16, 32)
    plugin.setup(tiny_backbone())
    alike = x[:1] + 0.3 * x
    assert plugin.loss({2: Tokens(alike)}, x, {}) > plugin.loss({2: Tokens(x)}, x, {})


def test_one_image_gives_zero():
    plugin, x = Dispersive(2), torch.randn(1, 16, 32)
    plugin.setup(tiny_backbone())
    assert plugin.loss({2: Tokens(x)}, x, {}) == 0


def test_reading_inside_a_route_whose_images_keep_different_places_is_refused():
    with pytest.raises(DiffxError, match=r"plugins\.it .*plugins\.tread"):
        TinyRun({"tread": TREAD(0.5, 1, 4), "it": Dispersive(3)})


@pytest.mark.parametrize(
    "settings", [{"depth": 0}, {"depth": 7}, {"temperature": 0.0}, {"margin": 0}, {"form": "x"}, {"distance": "l1"}]
)
def test_settings_that_cannot_be_are_refused(settings):
    ((name, value),) = settings.items()
    with pytest.raises(DiffxError, match=f"plugins.dispersive.{name}={value}"):
        Dispersive(**settings).setup(tiny_backbone())
