"""The suite as a whole: torch-fidelity's FID from the same file of weights, references of every kind, the floor."""

import json
import os
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.distributed as dist
from torch_fidelity.metric_fid import fid_features_to_statistics, fid_statistics_to_metric
from torch_fidelity.metric_isc import isc_features_to_metric
from torch_fidelity.metric_prc import prc_features_to_metric

from diffx.data import Shapes
from diffx.errors import DiffxError
from diffx.features.inception import Inception, InceptionFeatures
from diffx.metrics.adm import ADMMetrics
from diffx.metrics.frechet import Gaussian, frechet_distance
from diffx.metrics.reference import load_reference
from tests import forks


@pytest.fixture(autouse=True)
def own_home(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DIFFX_HOME", str(home))
    monkeypatch.delenv("DIFFX_REFERENCES", raising=False)


@pytest.fixture(scope="session")
def statistics(real: torch.Tensor, network: Inception) -> dict[str, np.ndarray]:
    """What ADM's reference files hold, computed with NumPy. The moments are of other images than arr_0, as there."""
    found = network(real)
    pool, spatial = found.pool.double().numpy(), found.spatial.double().numpy()
    return {
        "arr_0": real[:10].permute(0, 2, 3, 1).numpy(),
        "mu": pool.mean(0),
        "sigma": np.cov(pool, rowvar=False),
        "mu_s": spatial.mean(0),
        "sigma_s": np.cov(spatial, rowvar=False),
    }


@pytest.fixture(scope="session")
def virtual(home: Path, statistics: dict[str, np.ndarray]) -> Path:
    """A file in the layout of VIRTUAL_imagenet256_labeled.npz, in the references folder."""
    file = home / "references" / "VIRTUAL_imagenet32_labeled.npz"
    file.parent.mkdir(exist_ok=True)
    np.savez(file, **statistics)
    return file


@pytest.fixture(scope="session")
def values(home: Path, virtual: Path, weights: Path, fake: torch.Tensor) -> dict[str, float]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DIFFX_HOME", str(home))
        return ADMMetrics(None, "VIRTUAL_imagenet32", str(weights), device="cpu")(fake.split(5))


@pytest.mark.slow
def test_names_carry_the_number_of_samples(values: dict[str, float]) -> None:
    assert set(values) == {f"{name}_12" for name in ("fid", "sfid", "is", "precision", "recall", "kid")}


@pytest.mark.slow
@pytest.mark.parametrize(("name", "mean", "cov"), [("fid", "mu", "sigma"), ("sfid", "mu_s", "sigma_s")])
def test_distances_are_torch_fidelitys_with_fewer_samples_than_dimensions(
    name: str,
    mean: str,
    cov: str,
    values: dict[str, float],
    statistics: dict[str, np.ndarray],
    network: Inception,
    fake: torch.Tensor,
) -> None:
    features = network(fake)._asdict()["pool" if name == "fid" else "spatial"].double()
    theirs = fid_statistics_to_metric(
        fid_features_to_statistics(features), {"mu": statistics[mean], "sigma": statistics[cov]}, verbose=False
    )
    assert values[f"{name}_12"] == pytest.approx(theirs["frechet_inception_distance"], rel=1e-4)


@pytest.mark.slow
def test_the_other_values_are_torch_fidelitys(
    values: dict[str, float], network: Inception, real: torch.Tensor, fake: torch.Tensor
) -> None:
    samples, reference = network(fake), network(real[:10])
    score = isc_features_to_metric(samples.logits, splits=1, shuffle=False)["inception_score_mean"]
    manifolds = prc_features_to_metric(
        samples.pool, reference.pool, prc_neighborhood=3, prc_batch_size=99, verbose=False
    )
    assert values["is_12"] == pytest.approx(score, rel=1e-4)
    assert score > 1.01
    assert values["precision_12"] == pytest.approx(manifolds["precision"], abs=1e-6)
    assert values["recall_12"] == pytest.approx(manifolds["recall"], abs=1e-6)


def test_a_mean_and_a_covariance_of_a_file_have_known_distances() -> None:
    a, b = Gaussian(torch.zeros(3), torch.eye(3)), Gaussian(torch.ones(3), 4 * torch.eye(3))
    assert frechet_distance(a, b) == pytest.approx(3 + 3)


def fail(images: torch.Tensor) -> InceptionFeatures:
    raise AssertionError("the network is not asked")


Save = Callable[..., str]


@pytest.fixture
def save(tmp_path: Path) -> Save:
    def save(**arrays: np.ndarray) -> str:
        np.savez(tmp_path / "reference.npz", **arrays)
        return str(tmp_path / "reference.npz")

    return save


def test_files_of_mu_and_sigma_alone_give_fid_alone(save: Save, statistics: dict[str, np.ndarray]) -> None:
    found = load_reference(save(mu=statistics["mu"], sigma=statistics["sigma"]), None, fail, "")
    assert found.spatial is None
    assert found.features is None
    assert np.allclose(found.pool.mean.numpy(), statistics["mu"])


def test_a_reference_is_identified_by_its_content_alone(
    save: Save, statistics: dict[str, np.ndarray], tmp_path: Path
) -> None:
    one = load_reference(save(mu=statistics["mu"], sigma=statistics["sigma"]), None, fail, "").identity
    np.savez_compressed(tmp_path / "packed.npz", sigma=statistics["sigma"], mu=statistics["mu"])
    assert load_reference(str(tmp_path / "packed.npz"), None, fail, "").identity == one
    assert load_reference(save(mu=statistics["mu"] + 1e-9, sigma=statistics["sigma"]), None, fail, "").identity != one


def test_the_images_of_a_reference_are_read_when_they_are_asked_for_and_once(
    virtual: Path, network: Inception, real: torch.Tensor
) -> None:
    asked = []

    def counting(images: torch.Tensor) -> InceptionFeatures:
        asked.append(len(images))
        return network(images)

    reference = load_reference(str(virtual), None, counting, "reads")
    assert not asked
    assert reference.features is not None
    first = reference.features()
    assert sum(asked) == 10
    assert torch.equal(reference.features(), first)
    assert sum(asked) == 10
    assert torch.allclose(first, network(real[:10]).pool, rtol=1e-4, atol=1e-5)


def test_images_alone_are_a_reference(
    save: Save, statistics: dict[str, np.ndarray], network: Inception, real: torch.Tensor
) -> None:
    found = load_reference(save(arr_0=real.permute(0, 2, 3, 1).numpy()), None, network, "alone")
    assert np.allclose(found.pool.mean.numpy(), statistics["mu"], atol=1e-6)
    assert np.allclose(found.pool.cov.numpy(), statistics["sigma"], atol=1e-6)
    assert found.spatial is not None
    assert np.allclose(found.spatial.cov.numpy(), statistics["sigma_s"], atol=1e-5)


def test_a_data_sets_own_reference_is_computed_once_and_kept(
    network: Inception, statistics: dict[str, np.ndarray], home: Path
) -> None:
    found = load_reference("own", Shapes(count=16), network, "own")
    again = load_reference("own", Shapes(count=16), fail, "own")
    assert np.allclose(found.pool.mean.numpy(), statistics["mu"], atol=1e-6)
    assert torch.equal(found.pool.cov, again.pool.cov)
    assert found.identity == again.identity
    assert found.features is not None
    assert len(found.features()) == 16


@pytest.mark.parametrize(
    ("arrays", "words"),
    [
        ({"mu": np.zeros(768), "sigma": np.zeros((768, 768))}, ["768", "2048"]),
        ({"mu": np.full(2048, np.nan), "sigma": np.eye(2048)}, ["NaN"]),
        ({"feats": np.zeros(3)}, ["feats", "mu and sigma"]),
        ({"arr_0": np.zeros((2, 8, 8, 3))}, ["float64", "uint8"]),
    ],
)
def test_files_of_something_else_are_refused(save: Save, arrays: dict[str, np.ndarray], words: list[str]) -> None:
    with pytest.raises(DiffxError) as error:
        load_reference(save(**arrays), None, fail, "")
    assert all(word in str(error.value) for word in words)


def test_a_missing_reference_is_one_sentence_with_the_ways_to_provide_it() -> None:
    with pytest.raises(DiffxError) as error:
        load_reference("VIRTUAL_imagenet1024", None, fail, "")
    for way in ("VIRTUAL_imagenet1024", "guided-diffusion", "DIFFX_REFERENCES", "eval.metrics.reference=", "=own"):
        assert way in str(error.value)


def test_a_pickle_is_refused(tmp_path: Path) -> None:
    (tmp_path / "img512.pkl").touch()
    with pytest.raises(DiffxError, match="can run code"):
        load_reference(str(tmp_path / "img512.pkl"), None, fail, "")


class Imageless(Shapes):
    """Prepared latents without their images."""

    def provide(self, needs, side):
        raise DiffxError("no images")


def test_the_floor_of_data_without_images_is_empty(virtual: Path, weights: Path) -> None:
    assert ADMMetrics(Imageless(count=4), str(virtual), str(weights), device="cpu").floor(4) == {}


@pytest.mark.slow
def test_real_images_are_nearer_than_worse_ones_and_measured_once(
    virtual: Path, weights: Path, values: dict[str, float], monkeypatch: pytest.MonkeyPatch
) -> None:
    metrics = ADMMetrics(Shapes(count=16), str(virtual), str(weights), device="cpu")
    floor = metrics.floor(12)
    assert floor.keys() == values.keys()
    assert floor["fid_12"] < values["fid_12"]
    monkeypatch.setattr(metrics, "_inception", fail)
    assert metrics.floor(12) == floor


def on_one_rank(rank: int, virtual: str, weights: str, images: torch.Tensor, folder: str) -> None:
    torch.set_num_threads(1)
    os.environ.update(RANK=str(rank), WORLD_SIZE="2")
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2)
    metrics = ADMMetrics(None, virtual, weights, device="cpu")
    Path(folder, f"{rank}.json").write_text(json.dumps(metrics(images[rank::2].split(5))))
    dist.destroy_process_group()


@pytest.mark.slow
def test_two_ranks_have_the_values_of_all_samples(
    virtual: Path, weights: Path, fake: torch.Tensor, values: dict[str, float], tmp_path: Path
) -> None:
    forks.ranks(on_one_rank, str(virtual), str(weights), fake, str(tmp_path))
    for rank in range(2):
        assert json.loads((tmp_path / f"{rank}.json").read_text()) == pytest.approx(values, rel=1e-4)


@pytest.mark.slow
def test_the_pages_example_for_other_training_code_has_the_suites_values(
    virtual: Path, weights: Path, fake: torch.Tensor, values: dict[str, float], monkeypatch: pytest.MonkeyPatch
) -> None:
    page = (Path(__file__).parents[2] / "docs" / "evaluation.md").read_text()
    (example,) = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    monkeypatch.setenv("DIFFX_INCEPTION_WEIGHTS", str(weights))
    names = {"images": fake}
    exec(example.replace("VIRTUAL_imagenet256", str(virtual)), names)
    found = names["metrics"].compute()
    assert {f"{name}_12": value.item() for name, value in found.items()} == pytest.approx(
        {name: values[name] for name in ("fid_12", "kid_12")}, rel=1e-4
    )
