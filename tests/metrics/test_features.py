"""The metrics of the embedded data: named by their count, zero for the reference itself, worse for worse images."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
import torch.distributed as dist

from diffx.data import Digits
from diffx.embedded import training
from diffx.errors import DiffxError
from diffx.frozen.encoder import encoder_spec
from diffx.metrics.embedded import EmbeddedMetrics
from diffx.metrics.measure import sample_count
from diffx.store.digest import checksum
from tests import forks

DISTANCES = ("fd_embedded_sup", "fd_embedded_ssl")


@pytest.fixture(scope="module")
def metrics(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddedMetrics]:
    """On digits of 8 pixels, with networks that were trained for five steps."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DIFFX_HOME", str(tmp_path_factory.mktemp("home")))
        patch.setattr(training, "STEPS", 5)
        yield EmbeddedMetrics(Digits(8))


@pytest.fixture(scope="module")
def held_out() -> torch.Tensor:
    return Digits(8).reference()


def noisy(images: torch.Tensor, amount: float) -> torch.Tensor:
    noise = torch.randn(images.shape, generator=torch.Generator().manual_seed(0))
    return (images + 255 * amount * noise).clamp(0, 255).to(torch.uint8)


def test_names_carry_the_number_of_samples(metrics, held_out):
    assert set(metrics([held_out])) == {"fd_embedded_sup_500", "fd_embedded_ssl_500", "nearest_train"}
    assert set(metrics.floor(2000)) == {"fd_embedded_sup_2k", "fd_embedded_ssl_2k", "nearest_train"}


@pytest.mark.parametrize(("n", "name"), [(999, "999"), (1000, "1k"), (2048, "2048"), (50_000, "50k")])
def test_whole_thousands_are_written_with_a_k(n, name):
    assert sample_count(n) == name


def test_the_held_out_images_are_at_distance_zero_from_themselves(metrics, held_out):
    values = metrics([held_out])
    assert [values[f"{name}_500"] for name in DISTANCES] == pytest.approx([0, 0], abs=1e-6)


def test_batches_do_not_matter(metrics, held_out):
    images = noisy(held_out, 0.1)
    assert metrics(images.split(70)) == pytest.approx(metrics([images]), rel=1e-4)


def test_more_noise_is_farther_in_both_networks(metrics, held_out):
    by_noise = [metrics([noisy(held_out, amount)]) for amount in (0.05, 0.2, 0.8)]
    for name in DISTANCES:
        weak, medium, strong = (values[f"{name}_500"] for values in by_noise)
        assert weak < medium < strong


def test_too_few_digits_are_seen_in_both_networks(metrics, held_out):
    ones = metrics([held_out[Digits(8).reference_labels() == 1].repeat(10, 1, 1, 1)])
    for name in DISTANCES:
        assert ones[f"{name}_500"] > 2 * metrics.floor(500)[f"{name}_500"]


def test_the_floor_is_below_noise_in_every_metric(metrics, held_out):
    floor, noise = metrics.floor(500), metrics([noisy(held_out, 0.5)])
    assert all(floor[name] < noise[name] for name in floor)


def test_the_floor_is_the_same_each_time_and_may_repeat_images(metrics):
    assert metrics.floor(3000) == metrics.floor(3000)


def test_copies_of_training_images_are_found_out(metrics):
    images = Digits(8).batch(torch.arange(100))["image"]
    assert metrics([images])["nearest_train"] == 0


def test_one_sample_has_no_distance(metrics, held_out):
    with pytest.raises(DiffxError, match="at least 2"):
        metrics([held_out[:1]])


def test_the_feature_networks_are_no_kin_of_the_encoder(metrics):
    families = [network["family"] for network in metrics.networks]
    assert len({*families, encoder_spec("embedded").family}) == 3


def test_the_identity_names_the_data_and_changes_with_the_weights(metrics):
    assert Digits(8).identity in metrics.identity
    weights = [torch.zeros(3), torch.ones(2, 2)]
    assert checksum(weights) == checksum([tensor.clone() for tensor in weights])
    assert checksum(weights) != checksum([torch.zeros(3), torch.ones(2, 2) + 1e-7])


def measure_on_one_rank(rank: int, metrics: EmbeddedMetrics, images: torch.Tensor, folder: str) -> None:
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2)
    Path(folder, f"{rank}.json").write_text(json.dumps(metrics([images[rank::2]])))
    dist.destroy_process_group()


@pytest.mark.slow
def test_two_ranks_with_half_the_samples_each_get_the_values_of_all_samples(metrics, held_out, tmp_path):
    images = noisy(held_out, 0.1)
    forks.ranks(measure_on_one_rank, metrics, images, str(tmp_path))
    whole = metrics([images])
    for rank in range(2):
        assert json.loads((tmp_path / f"{rank}.json").read_text()) == pytest.approx(whole, rel=1e-4)
