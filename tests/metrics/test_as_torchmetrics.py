"""Metrics are torchmetrics as people use them: reset, several batches, collections, Lightning's casts, processes."""

import json
from pathlib import Path

import lightning as L
import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torchmetrics import Metric, MetricCollection

from diffx.errors import DiffxError
from diffx.metrics.frechet import FrechetDistance, Gaussian
from diffx.metrics.image_metric import Once
from diffx.metrics.inception_score import InceptionScore
from diffx.metrics.kernel_distance import KernelDistance
from diffx.metrics.nearest import NearestTraining
from diffx.metrics.precision_recall import Precision, Recall
from tests import forks

WIDTH = 8


class Network(nn.Module):
    """A feature network of images uint8 (B, 1, 4, 4)."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(16, WIDTH)
        with torch.no_grad():
            self.layer.weight.copy_(torch.randn(WIDTH, 16, generator=torch.Generator().manual_seed(0)))
            self.layer.bias.zero_()
        self.calls = 0

    def forward(self, images: Tensor) -> Tensor:
        self.calls += 1
        return self.layer(images.flatten(1).float() / 255)


def pictures(count: int, seed: int) -> Tensor:
    return torch.randint(256, (count, 1, 4, 4), dtype=torch.uint8, generator=torch.Generator().manual_seed(seed))


def every_metric(network=None) -> dict[str, Metric]:
    network = network or Network()
    real = network(pictures(40, seed=1)).detach()
    gaussian = Gaussian(real.double().mean(0), real.double().T.cov())
    return {
        "fd": FrechetDistance(network, gaussian),
        "score": InceptionScore(network, split=10),
        "kd": KernelDistance(network, lambda: real),
        "precision": Precision(network, lambda: real),
        "recall": Recall(network, lambda: real),
        "nearest": NearestTraining(pictures(40, seed=1)),
    }


def values(metrics: MetricCollection, batches: list[Tensor]) -> dict[str, float]:
    for images in batches:
        metrics.update(images)
    return {name: value.item() for name, value in metrics.compute().items()}


@pytest.fixture
def metrics() -> MetricCollection:
    return MetricCollection(every_metric())


def test_a_collection_gives_every_value_by_name(metrics: MetricCollection) -> None:
    found = values(metrics, [pictures(30, seed=2)])
    assert set(found) == {"fd", "score", "kd", "precision", "recall", "nearest"}


class Model(L.LightningModule):
    """Somebody's training code, with the metrics as a part of it."""

    def __init__(self) -> None:
        super().__init__()
        self.layer, self.metrics = nn.Linear(2, 2), MetricCollection(every_metric())

    def validation_step(self, images: Tensor, index: int) -> None:
        self.metrics.update(images)
        self.log_dict(self.metrics)


def test_lightning_logs_and_resets_them(tmp_path: Path) -> None:
    trainer = L.Trainer(
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        default_root_dir=tmp_path,
    )
    model, images = Model(), pictures(30, seed=2)
    batches = torch.utils.data.DataLoader(images, batch_size=10)
    expected = values(MetricCollection(every_metric()), [images])
    for _ in range(2):
        (logged,) = trainer.validate(model, batches, verbose=False)
        assert logged == pytest.approx(expected, rel=1e-6)


def test_batches_do_not_matter(metrics: MetricCollection) -> None:
    images = pictures(30, seed=2)
    whole = values(metrics, [images])
    assert values(MetricCollection(every_metric()), list(images.split(7))) == pytest.approx(whole, rel=1e-6)


def test_after_a_reset_nothing_is_left_of_what_was_seen(metrics: MetricCollection) -> None:
    first = values(metrics, [pictures(30, seed=2)])
    values(metrics, [pictures(30, seed=3)])
    metrics.reset()
    assert values(metrics, [pictures(30, seed=2)]) == first


@pytest.mark.parametrize("name", every_metric())
def test_called_with_a_batch_it_returns_the_batchs_value_and_goes_on_summing(name: str) -> None:
    metric, alone, whole = (every_metric()[name] for _ in range(3))
    first, second = pictures(20, seed=2), pictures(10, seed=3)
    metric(first)
    of_batch = metric(second)
    alone.update(second)
    whole.update(torch.cat([first, second]))
    expected = (alone.compute(), whole.compute())
    for found, known in zip((of_batch, metric.compute()), expected, strict=True):
        torch.testing.assert_close(found, known, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("cast", [nn.Module.half, nn.Module.float, lambda m: m.to(torch.bfloat16)])
def test_sums_stay_float64_in_a_model_that_is_cast(cast) -> None:
    metrics = MetricCollection(every_metric())
    metrics.update(pictures(20, seed=2))
    model = L.LightningModule()
    model.metrics, model.layer = metrics, nn.Linear(2, 2)
    cast(model)
    metrics.update(pictures(10, seed=3))
    assert metrics["fd"].outer.dtype == metrics["score"].sums.dtype == torch.float64
    whole = values(MetricCollection(every_metric()), [torch.cat([pictures(20, seed=2), pictures(10, seed=3)])])
    found = {name: value.item() for name, value in metrics.compute().items()}
    assert found == pytest.approx(whole, rel=1e-6)


def test_the_network_is_no_part_of_the_model_that_holds_the_metric() -> None:
    model = L.LightningModule()
    model.metrics = MetricCollection(every_metric())
    assert not list(model.parameters())
    assert not model.state_dict()
    assert not any(isinstance(module, Network) for module in model.modules())


def test_metrics_that_share_a_network_run_it_once_for_each_batch() -> None:
    network = Network()
    metrics = MetricCollection(every_metric(Once(network)), compute_groups=False)
    before = network.calls
    for seed in (2, 3):
        metrics.update(pictures(10, seed))
    assert network.calls == before + 2


def test_a_batch_that_is_written_over_in_place_is_looked_at_again() -> None:
    once, images = Once(Network()), pictures(4, seed=2)
    first = once(images)
    images.copy_(pictures(4, seed=3))
    assert not torch.equal(once(images), first)


def test_images_under_inference_mode_are_measured(metrics: MetricCollection) -> None:
    plain = values(metrics, [pictures(30, seed=2)])
    with torch.inference_mode():
        assert values(MetricCollection(every_metric(Once(Network()))), [pictures(30, seed=2)]) == plain


@pytest.mark.parametrize("name", [name for name in every_metric() if name != "nearest"])
def test_features_that_are_not_finite_are_refused(name: str) -> None:
    network = Network()
    metric = every_metric(network)[name]
    network.layer.weight.data[0, 0] = torch.nan
    with pytest.raises(DiffxError, match="4 of 4 feature vectors hold NaN"):
        metric.update(pictures(4, seed=0))


@pytest.mark.filterwarnings("ignore:The ``compute`` method")
@pytest.mark.parametrize("name", every_metric())
def test_no_images_at_all_are_said(name: str) -> None:
    with pytest.raises(DiffxError, match=r"at least . image|more than 3 samples"):
        every_metric()[name].compute()


def on_one_rank(rank: int, folder: str) -> None:
    import os

    os.environ.update(RANK=str(rank), WORLD_SIZE="2")
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2)
    metrics = MetricCollection(every_metric())
    images = pictures(31, seed=2)[rank::2]
    first = values(metrics, [images[:5]])
    found = values(metrics, [images[5:]])  # what was gathered for `first` is not counted twice
    metrics.reset()
    alone = FrechetDistance(Network(), metrics["fd"]._reference, sync_on_compute=False)
    if rank == 0:
        alone.update(pictures(9, seed=3))
        alone.compute()
    Path(folder, f"{rank}.json").write_text(json.dumps([first, found]))
    dist.destroy_process_group()


@pytest.mark.slow
def test_two_processes_compute_the_values_of_all_images_and_one_may_measure_alone(tmp_path: Path) -> None:
    forks.ranks(on_one_rank, str(tmp_path))
    images = pictures(31, seed=2)
    expected = [values(MetricCollection(every_metric()), [part]) for part in (images[:10], images)]
    for rank in range(2):
        for found, known in zip(json.loads((tmp_path / f"{rank}.json").read_text()), expected, strict=True):
            assert found == pytest.approx(known, rel=1e-6)


def on_a_rank_without_images(rank: int, folder: str) -> None:
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2)
    metrics = MetricCollection({k: v for k, v in every_metric().items() if k != "score"})
    if rank == 0:
        metrics.update(pictures(20, seed=2))
    found = {name: value.item() for name, value in metrics.compute().items()}
    Path(folder, f"{rank}.json").write_text(json.dumps(found))
    dist.destroy_process_group()


@pytest.mark.slow
def test_a_process_without_images_has_the_values_too(tmp_path: Path) -> None:
    forks.ranks(on_a_rank_without_images, str(tmp_path))
    expected = values(MetricCollection(every_metric()), [pictures(20, seed=2)])
    for rank in range(2):
        found = json.loads((tmp_path / f"{rank}.json").read_text())
        assert found == pytest.approx({name: expected[name] for name in found}, rel=1e-6)
