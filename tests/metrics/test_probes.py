"""What probes measure: how well classes can be told apart, and how alike two spaces arrange the same images."""

import pytest
import torch
from sklearn.linear_model import Ridge
from torch import Tensor

from diffx.errors import DiffxError
from diffx.features import cknna as module
from diffx.features.cknna import cknna
from diffx.features.linear_probe import linear_probe


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def by_loops(a: Tensor, b: Tensor, k: int) -> float:
    """The formula as it stands, pair by pair."""
    a, b = ((x / x.norm(dim=1, keepdim=True)).numpy() for x in (a, b))
    n = len(a)

    def near(x, i: int) -> set[int]:
        return set(sorted((j for j in range(n) if j != i), key=lambda j: -float(x[i] @ x[j]))[:k])

    def centred(x, i: int, j: int) -> float:
        return float(x[i] @ x[j]) - sum(float(x[i] @ x[m]) for m in range(n)) / n

    def align(x, y) -> float:
        pairs = [(i, j) for i in range(n) for j in near(x, i) & near(y, i)]
        return sum(centred(x, i, j) * centred(y, i, j) for i, j in pairs)

    return align(a, b) / (align(a, a) * align(b, b)) ** 0.5


@pytest.mark.parametrize(("n", "k"), [(12, 3), (30, 10)])
def test_cknna_is_the_papers_formula_pair_by_pair(n: int, k: int) -> None:
    a = normal(n, 5)
    b = a @ normal(5, 7, seed=1) + 0.5 * normal(n, 7, seed=2)
    assert cknna(a, b, k) == pytest.approx(by_loops(a, b, k), rel=1e-10)


def test_cknna_does_not_depend_on_how_rows_are_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    a, b = normal(50, 5), normal(50, 5) + normal(50, 5, seed=1)
    whole = cknna(a, b)
    monkeypatch.setattr(module, "CHUNK", 7)
    assert cknna(a, b) == pytest.approx(whole, rel=1e-12)


def test_a_space_agrees_wholly_with_itself_turned_and_scaled() -> None:
    a = normal(60, 6)
    turned = 3 * a @ torch.linalg.qr(normal(6, 6, seed=1)).Q
    assert cknna(a, turned) == pytest.approx(1)


def test_cknna_is_symmetric_and_falls_with_noise() -> None:
    a = normal(300, 16)
    found = [cknna(a, a + amount * normal(300, 16, seed=1)) for amount in (0.1, 0.5, 2)]
    assert found == sorted(found, reverse=True)
    b = a + normal(300, 16, seed=1)
    assert cknna(a, b) == pytest.approx(cknna(b, a), rel=1e-12)


def test_unrelated_spaces_hardly_agree() -> None:
    assert abs(cknna(normal(1000, 32), normal(1000, 32, seed=1))) < 0.05


@pytest.mark.parametrize(("a", "b"), [(10, 10), (20, 19)])
def test_too_few_or_unequally_many_images_are_said(a: int, b: int) -> None:
    with pytest.raises(DiffxError, match=f"there are {a} and {b}"):
        cknna(normal(a, 4), normal(b, 4))


def test_classes_that_are_apart_are_told_apart_and_random_labels_are_not() -> None:
    labels = torch.arange(400) % 4
    centres = 10 * normal(4, 8)
    features = centres[labels] + normal(400, 8, seed=1)
    assert linear_probe(features[:200], labels[:200], features[200:], labels[200:]) == 1
    random = torch.randint(4, (400,), generator=torch.Generator().manual_seed(0))
    assert linear_probe(features[:200], random[:200], features[200:], random[200:]) < 0.4


def test_the_probe_is_scikit_learns_ridge_regression_onto_one_hot_labels() -> None:
    labels = torch.arange(300) % 5
    features = normal(5, 20)[labels] + 2 * normal(300, 20, seed=1)
    train, test = features[:200], features[200:]
    scaled = [(x - train.mean(0)) / train.std(0) for x in (train, test)]
    # Their intercept is not shrunk; ours is, by a tenth of one image in 200.
    ridge = Ridge(alpha=0.1).fit(scaled[0].numpy(), torch.nn.functional.one_hot(labels[:200]).numpy())
    expected = (ridge.predict(scaled[1].numpy()).argmax(1) == labels[200:].numpy()).mean()
    assert linear_probe(train, labels[:200], test, labels[200:]) == pytest.approx(expected, abs=0.011)


def test_a_feature_that_never_changes_does_no_harm() -> None:
    labels = torch.arange(100) % 2
    features = torch.stack([labels.double(), torch.full((100,), 3.0, dtype=torch.float64)], dim=1)
    assert linear_probe(features[:50], labels[:50], features[50:], labels[50:]) == 1
