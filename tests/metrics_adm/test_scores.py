"""Inception Score, precision, recall and kernel distance: known answers, and torch-fidelity's."""

import math
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from torch_fidelity.metric_isc import isc_features_to_metric
from torch_fidelity.metric_kid import kid_features_to_metric
from torch_fidelity.metric_prc import prc_features_to_metric

from diffx.errors import DiffxError
from diffx.metrics.inception_score import InceptionScore
from diffx.metrics.kernel_distance import kernel_distance
from diffx.metrics.precision_recall import precision, recall
from diffx.processes.gather import all_gathered, all_reduced
from tests import forks


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


NO_NETWORK = torch.nn.Identity()  # these tests are about features


def score(logits: torch.Tensor, split: int = 5000) -> float:
    found = InceptionScore(NO_NETWORK, split)
    found.update(logits)
    return found.compute().item()


def test_certain_and_evenly_spread_classes_score_their_number() -> None:
    certain = 200.0 * torch.eye(10).repeat(50, 1)
    assert score(certain) == pytest.approx(10)


def test_equal_predictions_score_one() -> None:
    assert score(normal(1, 1008).expand(64, -1)) == pytest.approx(1)


def test_impossible_classes_are_no_nan() -> None:
    logits = torch.full((4, 3), -torch.inf)
    logits[:, 0] = 0
    logits[2:, 1] = 0
    logits[:, 2] = -1e4
    assert math.isfinite(score(torch.where(logits.isinf(), -1e4, logits)))


def test_samples_sorted_by_class_score_low_since_splits_are_not_shuffled() -> None:
    certain = 200.0 * torch.eye(10).repeat(10, 1)
    sorted_by_class = certain[certain.argmax(1).argsort(stable=True)]
    assert score(certain, split=20) == pytest.approx(10)
    assert score(sorted_by_class, split=20) == pytest.approx(2)


def test_the_score_is_torch_fidelitys_where_it_does_not_shuffle() -> None:
    logits = normal(600, 1008)
    theirs = isc_features_to_metric(logits, splits=3, shuffle=False)["inception_score_mean"]
    assert score(logits, split=200) == pytest.approx(theirs, rel=1e-6)


def test_a_last_split_that_is_smaller_counts_as_one() -> None:
    logits = normal(25, 10)
    apart = [score(part, split=10) for part in logits.split(10)]
    assert score(logits, split=10) == pytest.approx(sum(apart) / 3)


def test_batches_that_cross_splits_give_the_score_of_the_whole() -> None:
    logits, parts = normal(30, 10), InceptionScore(NO_NETWORK, split=12)
    for part in logits.split(7):
        parts.update(part)
    assert parts.compute().item() == pytest.approx(score(logits, split=12), rel=1e-12)


def precision_recall(samples: torch.Tensor, reference: torch.Tensor) -> tuple[float, float]:
    return precision(samples, reference), recall(samples, reference)


def test_points_on_the_surface_of_a_ball_are_inside_as_in_exact_arithmetic() -> None:
    rng = torch.Generator().manual_seed(0)
    a, b = (torch.randint(0, 4, (200, 6), generator=rng) + offset for offset in (0, 1))

    def covered(points: torch.Tensor, balls: torch.Tensor) -> float:
        def squared(x: torch.Tensor) -> torch.Tensor:
            return (x[:, None] - balls[None]).square().sum(2)

        radii = squared(balls).sort(dim=1).values[:, 3]
        return (squared(points) <= radii).any(1).double().mean().item()

    assert precision(a.float(), b.float()) == covered(a, b)
    assert recall(a.float(), b.float()) == covered(b, a)
    far = 1000  # where float32 would lose digits
    assert precision(a.float() + far, b.float() + far) == covered(a, b)


def test_a_set_covers_itself() -> None:
    points = normal(50, 8)
    assert precision_recall(points, points) == (1.0, 1.0)


def test_sets_far_apart_cover_nothing() -> None:
    assert precision_recall(normal(50, 8), normal(50, 8) + 100) == (0.0, 0.0)


def test_half_of_the_samples_in_the_manifold_is_a_precision_of_a_half() -> None:
    """Samples: the reference's left cloud and a cloud that is nowhere. Reference: two clouds."""
    left, right, nowhere = normal(40, 4), normal(40, 4, seed=1) + 1000, normal(40, 4, seed=2) - 1000
    found = precision_recall(torch.cat([left, nowhere]), torch.cat([left, right]))
    assert found == (0.5, 0.5)


def test_a_point_on_the_edge_of_a_ball_is_inside() -> None:
    """On a line, the ball of 0 reaches to its third neighbour at 3."""
    reference, samples = torch.tensor([[0.0], [1], [2], [3]]), torch.tensor([[-3.0], [-3.5], [50], [60]])
    assert precision(samples, reference) == 0.25


def test_precision_and_recall_are_torch_fidelitys() -> None:
    samples, reference = normal(300, 64), 0.9 * normal(400, 64, seed=1) + 0.1
    theirs = prc_features_to_metric(samples, reference, prc_neighborhood=3, prc_batch_size=1000, verbose=False)
    ours = precision_recall(samples, reference)
    assert ours == pytest.approx((theirs["precision"], theirs["recall"]), abs=1e-6)
    assert 0.1 < ours[0] < 0.99


def test_float32_distances_decide_as_float64_ones_far_from_the_origin() -> None:
    samples, reference = normal(300, 64) + 20, 0.95 * normal(300, 64, seed=1) + 20
    exact = precision_recall(samples.double(), reference.double())
    assert precision_recall(samples, reference) == pytest.approx(exact, abs=0.005)


def test_three_samples_have_no_precision() -> None:
    with pytest.raises(DiffxError, match="more than 3 samples, and there are 3"):
        precision_recall(normal(3, 4), normal(9, 4))


def test_the_kernel_distance_is_torch_fidelitys_over_all_pairs() -> None:
    samples, reference = normal(200, 64), normal(200, 64, seed=1) + 0.2
    settings = {"kid_subsets": 1, "kid_subset_size": 200, "rng_seed": 0, "verbose": False}
    settings |= {"kid_kernel": "poly", "kid_kernel_poly_degree": 3, "kid_kernel_poly_gamma": None}
    theirs = kid_features_to_metric(samples, reference, **settings, kid_kernel_poly_coef0=1)
    found = theirs["kernel_inception_distance_mean"]
    assert kernel_distance(samples, reference) == pytest.approx(found, rel=1e-4)


def test_the_kernel_distance_of_one_distribution_is_zero_on_average() -> None:
    found = [kernel_distance(normal(100, 16, seed=2 * k), normal(150, 16, seed=2 * k + 1)) for k in range(100)]
    spread = torch.tensor(found).std() / 10
    assert abs(sum(found) / 100) < 3 * spread


def on_one_rank(rank: int, folder: str) -> None:
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2)
    mine = normal(25, 10)[rank::2]
    found = InceptionScore(NO_NETWORK, split=10)
    found.update(mine)
    facts = {"score": found.compute(), "rows": all_gathered(mine)[0]}
    facts["nothing on rank 1"] = all_gathered(mine if rank == 0 else torch.zeros(0))[0]
    facts["sum"] = all_reduced(torch.ones(2 + rank, 3 - rank))[0]
    torch.save(facts, f"{folder}/{rank}.pt")
    dist.destroy_process_group()


@pytest.mark.slow
def test_two_ranks_have_the_score_and_the_rows_of_all_samples(tmp_path: Path) -> None:
    forks.ranks(on_one_rank, str(tmp_path))
    logits = normal(25, 10)
    for rank in range(2):
        found = torch.load(tmp_path / f"{rank}.pt", weights_only=True)
        assert found["score"].item() == pytest.approx(score(logits, split=10), rel=1e-12)
        assert torch.equal(found["rows"], torch.cat([logits[0::2], logits[1::2]]))
        assert torch.equal(found["nothing on rank 1"], logits[0::2])
        assert found["sum"].tolist() == [[2, 2, 1], [2, 2, 1], [1, 1, 0]]
