"""The Fréchet distance, against closed forms and two other implementations."""

import math

import numpy as np
import pytest
import scipy.linalg
import torch
import torch.distributed as dist
from hypothesis import given
from hypothesis import strategies as st
from torchmetrics.image.fid import _compute_fid

from diffx.errors import DiffxError
from diffx.metrics.frechet import Gaussian, Moments, frechet_distance
from tests import forks

NO_NETWORK = torch.nn.Identity()  # these tests are about features


def summed(features: torch.Tensor) -> Moments:
    result = Moments(NO_NETWORK, features.shape[1])
    result.update(features)
    return result


def moments(features: torch.Tensor) -> Gaussian:
    return summed(features).compute()


def gaussian(mean: torch.Tensor, cov: torch.Tensor) -> Gaussian:
    return Gaussian(mean.double(), cov.double())


def correlated(n: int, dim: int, seed: int) -> torch.Tensor:
    rng = torch.Generator().manual_seed(seed)
    mixing = torch.randn(dim, dim, generator=rng, dtype=torch.float64)
    return torch.randn(n, dim, generator=rng, dtype=torch.float64) @ mixing + torch.randn(dim, generator=rng)


def by_sqrtm(a: Gaussian, b: Gaussian) -> float:
    cross = scipy.linalg.sqrtm(a.cov.numpy() @ b.cov.numpy()).real
    return float((a.mean - b.mean).square().sum() + a.cov.trace() + b.cov.trace() - 2 * np.trace(cross))


def test_the_mean_and_the_unbiased_covariance_are_numpys():
    features = correlated(200, 7, seed=0)
    result = moments(features)
    np.testing.assert_allclose(result.mean, features.numpy().mean(axis=0), rtol=1e-12)
    np.testing.assert_allclose(result.cov, np.cov(features.numpy(), rowvar=False), rtol=1e-11)


def test_sums_are_kept_in_float64_whatever_the_features_are():
    result = moments(torch.full((3, 1), 1e4, dtype=torch.float32) + torch.tensor([[0.0], [0.5], [1.0]]))
    assert float(result.cov) == pytest.approx(0.25, abs=1e-6)


@given(parts=st.integers(1, 30))
def test_batches_give_the_moments_of_the_whole(parts):
    features, batched = correlated(30, 4, seed=1), Moments(NO_NETWORK, 4)
    for part in features.chunk(parts):
        batched.update(part)
    whole = summed(features)
    assert batched.n == whole.n == 30
    torch.testing.assert_close(batched.sum, whole.sum, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(batched.outer, whole.outer, rtol=1e-12, atol=1e-12)


def test_diagonal_gaussians_have_the_distance_of_the_closed_form():
    mean_a, mean_b = torch.tensor([0.0, 1.0, 2.0]), torch.tensor([0.5, 1.0, -1.0])
    std_a, std_b = torch.tensor([1.0, 2.0, 0.5]), torch.tensor([3.0, 2.0, 0.1])
    distance = frechet_distance(gaussian(mean_a, std_a.square().diag()), gaussian(mean_b, std_b.square().diag()))
    assert distance == pytest.approx(float((mean_a - mean_b).square().sum() + (std_a - std_b).square().sum()), rel=1e-6)


@pytest.mark.parametrize(("n", "dim"), [(500, 3), (2000, 64)])
def test_it_agrees_with_the_matrix_square_root_of_scipy(n, dim):
    a, b = moments(correlated(n, dim, seed=2)), moments(correlated(n, dim, seed=3))
    assert frechet_distance(a, b) == pytest.approx(by_sqrtm(a, b), rel=1e-9)


def test_it_agrees_with_torchmetrics_in_float64():
    a, b = moments(correlated(2000, 64, seed=4)), moments(correlated(1500, 64, seed=5))
    assert frechet_distance(a, b) == pytest.approx(float(_compute_fid(a.mean, a.cov, b.mean, b.cov)), rel=1e-9)


def test_with_fewer_vectors_than_dimensions_it_is_the_nuclear_norm_of_the_features():
    one, other = correlated(20, 50, seed=6), correlated(30, 50, seed=7)
    a, b = moments(one), moments(other)
    centred = [(x - x.mean(dim=0)) / math.sqrt(len(x) - 1) for x in (one, other)]
    cross = torch.linalg.matrix_norm(centred[0] @ centred[1].T, ord="nuc")
    expected = (a.mean - b.mean).square().sum() + a.cov.trace() + b.cov.trace() - 2 * cross
    assert frechet_distance(a, b) == pytest.approx(float(expected), rel=1e-6)


def test_equal_moments_are_at_distance_zero():
    a = moments(correlated(300, 16, seed=8))
    assert frechet_distance(a, a) == pytest.approx(0, abs=1e-9 * float(a.cov.trace()))


def test_it_is_symmetric():
    a, b = moments(correlated(300, 16, seed=9)), moments(correlated(200, 16, seed=10))
    assert frechet_distance(a, b) == pytest.approx(frechet_distance(b, a), rel=1e-10)


def test_a_translation_adds_its_squared_length():
    features = correlated(300, 16, seed=11)
    shift = torch.linspace(-2, 3, 16, dtype=torch.float64)
    expected = float(shift.square().sum())
    assert frechet_distance(moments(features), moments(features + shift)) == pytest.approx(expected, rel=1e-8)


def test_it_does_not_change_the_number_of_threads():
    before = torch.get_num_threads()
    frechet_distance(moments(correlated(30, 4, seed=12)), moments(correlated(30, 4, seed=13)))
    assert torch.get_num_threads() == before


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_features_that_are_not_finite_are_refused_and_counted_and_leave_the_sums_alone(value):
    features = torch.zeros(5, 3)
    features[1, 2] = features[4, 0] = value
    result = summed(torch.ones(2, 3))
    with pytest.raises(DiffxError, match="2 of 5"):
        result.update(features)
    assert result.n == 2
    assert result.sum.tolist() == [2, 2, 2]


def test_features_of_another_width_are_refused():
    with pytest.raises(DiffxError, match=r"\(4, 2\)"):
        Moments(NO_NETWORK, 3).update(torch.zeros(4, 2))


def test_moments_of_different_widths_do_not_compare():
    with pytest.raises(DiffxError, match="2 and of 3"):
        frechet_distance(moments(torch.randn(9, 2)), moments(torch.randn(9, 3)))


def test_one_image_has_no_covariance():
    with pytest.raises(DiffxError, match="at least 2"):
        frechet_distance(moments(torch.randn(1, 2)), moments(torch.randn(5, 2)))


def reduce_on_one_rank(rank: int, store: str, out: str) -> None:
    dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=2)
    share = summed(correlated(31, 4, seed=15)[rank::2])
    torch.save(dict(share.compute()._asdict()) | {"own": share.n}, f"{out}/{rank}.pt")
    dist.destroy_process_group()


@pytest.mark.slow
def test_every_rank_computes_the_moments_of_all_and_keeps_its_own_sums(tmp_path):
    forks.ranks(reduce_on_one_rank, str(tmp_path / "store"), str(tmp_path))
    whole = moments(correlated(31, 4, seed=15))
    for rank in range(2):
        found = torch.load(tmp_path / f"{rank}.pt", weights_only=True)
        assert found["own"] == 16 - rank
        torch.testing.assert_close(found["mean"], whole.mean, rtol=1e-12, atol=1e-12)
        torch.testing.assert_close(found["cov"], whole.cov, rtol=1e-12, atol=1e-12)
