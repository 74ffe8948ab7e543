"""Prepared latents as training data: joined by key, scaled, flipped, refused."""

import pickle
from pathlib import Path

import numpy as np
import pytest
import torch

from diffx.config.compose import compose_config
from diffx.config.target import make
from diffx.data.latents import Latents
from diffx.errors import DiffxError
from diffx.prepare.job import Job, Process, Row, cut

ALONE = Process(0, 1, 0, 1)
KEYS = [f"class{i % 2}/image{i}" for i in range(7)]
SHIFT, SCALE = [0.5, -1.0], [2.0, 0.25]


def write(root: Path, name: str, rows: dict[str, np.ndarray], facts: dict | None = None, size: int = 3) -> None:
    """A finished folder of shards with these rows, in the order given."""
    keys = list(rows)
    shards = cut(keys, [int(key[5]) for key in keys], size)

    def make(shard: int, put) -> None:
        for key, label in zip(*shards[shard], strict=True):
            put(Row(key, label, rows[key]))

    some = rows[keys[0]]
    Job(root / name, facts or {}, shards, some.shape, str(some.dtype), make).run(ALONE)


def moments(sign: float = 1.0) -> dict[str, np.ndarray]:
    """Means that name their sample, standard deviations of one eighth; flipped ones are negative."""
    return {
        k: np.stack([np.full((2, 2), sign * i)] * 2 + [np.full((2, 2), 0.125)] * 2).astype("f2")
        for i, k in enumerate(KEYS)
    }


def images() -> dict[str, np.ndarray]:
    """Left half black, right half as bright as the sample's number."""
    return {k: np.tile(np.array([0, 0, i, i], "u1"), (3, 4, 1)) for i, k in enumerate(KEYS)}


@pytest.fixture
def root(tmp_path: Path) -> Path:
    facts = {"posterior": True, "shift": SHIFT, "scale": SCALE, "autoencoder": "tiny"}
    write(tmp_path, "latents", moments(), facts)
    write(tmp_path, "latents-flipped", moments(-1), facts)
    write(tmp_path, "images", dict(reversed(images().items())), size=4)
    return tmp_path


def test_a_batch_is_the_scaled_posterior_of_the_asked_samples_in_their_order(root):
    batch = Latents(str(root)).batch(torch.tensor([5, 0, 5]))
    expected = (torch.tensor([5.0, 0.0, 5.0]).view(3, 1) - torch.tensor(SHIFT)) * torch.tensor(SCALE)
    torch.testing.assert_close(batch["x"], expected.view(3, 2, 1, 1).expand(3, 2, 2, 2))
    torch.testing.assert_close(batch["x_std"], (0.125 * torch.tensor(SCALE)).view(1, 2, 1, 1).expand(3, 2, 2, 2))
    assert batch["y"].tolist() == [1, 0, 1]
    assert batch["y"].dtype == torch.int64
    assert batch["x"].dtype == torch.float32


def test_images_are_read_only_when_something_needs_them(root):
    data = Latents(str(root))
    assert data.provide([], side=1) == []
    assert "image" not in data.batch(torch.tensor([0]))


def test_images_stored_in_another_order_are_joined_by_key(root):
    data = Latents(str(root))
    assert data.provide(["features/dinov2_vitb14"], side=1) == ["features/dinov2_vitb14"]
    batch = data.batch(torch.tensor([6, 2]))
    assert batch["image"][:, 0, 0, 3].tolist() == [6, 2]
    assert batch["image"].dtype == torch.uint8


def test_flipped_samples_follow_the_others_with_their_image_mirrored(root):
    data = Latents(str(root), flip=True)
    data.provide(["image"], side=1)
    assert len(data) == 14
    batch = data.batch(torch.tensor([3, 10]))
    assert batch["x"][:, 0, 0, 0].tolist() == [(3 - 0.5) * 2, (-3 - 0.5) * 2]
    assert batch["image"][0, 0, 0].tolist() == [0, 0, 3, 3]
    assert batch["image"][1, 0, 0].tolist() == [3, 3, 0, 0]
    assert batch["y"][0] == batch["y"][1]


def test_cached_features_take_the_place_of_images_and_say_what_they_cost(root):
    write(root, "features-clip_vitl14", {k: np.full((4, 3), i, "f2") for i, k in enumerate(KEYS)})
    data = Latents(str(root))
    assert data.provide(["features/clip_vitl14"], side=2) == []
    batch = data.batch(torch.tensor([4]))
    assert batch["features/clip_vitl14"].shape == (1, 4, 3)
    assert (batch["features/clip_vitl14"] == 4).all()
    assert "image" not in batch
    assert data.offline["features/clip_vitl14"]["cpu_hours"] > 0


def test_cached_features_of_another_grid_are_refused(root):
    write(root, "features-clip_vitl14", {k: np.zeros((4, 3), "f2") for k in KEYS})
    with pytest.raises(DiffxError, match="4 tokens per image and the backbone has 3x3"):
        Latents(str(root)).provide(["features/clip_vitl14"], side=3)


def test_a_sample_without_an_image_is_named(tmp_path):
    write(tmp_path, "latents", moments(), {"posterior": True, "shift": [0.0], "scale": [1.0], "autoencoder": "tiny"})
    write(tmp_path, "images", {k: v for k, v in images().items() if k != KEYS[3]})
    with pytest.raises(DiffxError, match=rf"no image of 1 samples, the first {KEYS[3]}"):
        Latents(str(tmp_path)).provide(["image"], side=1)


def test_a_missing_folder_is_refused_with_the_two_commands_that_prepare_it(tmp_path):
    with pytest.raises(DiffxError) as caught:
        Latents(str(tmp_path / "none"))
    assert "python -m diffx.prepare images SRC" in str(caught.value)
    assert "python -m diffx.prepare latents" in str(caught.value)


def test_a_preparation_that_did_not_end_is_refused(root):
    (root / "latents" / "manifest.json").unlink()
    with pytest.raises(DiffxError, match="only in part"):
        Latents(str(root))


def test_more_classes_than_the_backbone_has_are_refused(root):
    with pytest.raises(DiffxError, match=r"data\.num_classes=2"):
        Latents(str(root), num_classes=1)


def test_latents_without_a_posterior_have_no_standard_deviation(tmp_path):
    facts = {"posterior": False, "shift": [0.0], "scale": [2.0], "autoencoder": "dc"}
    write(tmp_path, "latents", moments(), facts)
    data = Latents(str(tmp_path))
    assert data.shape == (4, 2, 2)
    batch = data.batch(torch.tensor([3]))
    assert "x_std" not in batch
    assert batch["x"][0, 0, 0, 0] == 6


def test_the_identity_changes_with_any_row(root, tmp_path):
    before = Latents(str(root)).identity
    changed = moments()
    changed[KEYS[2]][0, 0, 0] += 1
    facts = {"posterior": True, "shift": SHIFT, "scale": SCALE, "autoencoder": "tiny"}
    write(tmp_path / "other", "latents", changed, facts)
    assert Latents(str(tmp_path / "other")).identity != before
    assert Latents(str(root)).identity == before


def test_data_sent_to_a_worker_reads_the_same(root):
    data = Latents(str(root))
    data.provide(["image"], side=1)
    indices = torch.tensor([1, 6])
    before = data.batch(indices)
    after = pickle.loads(pickle.dumps(data)).batch(indices)
    assert all(torch.equal(before[key], after[key]) for key in before)


def test_held_out_images_are_read_from_their_own_folder(root):
    write(root, "reference", images())
    assert Latents(str(root)).reference().shape == (7, 3, 4, 4)


def test_no_held_out_images_are_refused_with_the_command(root):
    with pytest.raises(DiffxError, match="--into reference"):
        Latents(str(root)).reference()


def test_latents_that_are_missing_are_to_be_prepared_with_the_autoencoder_of_the_experiment(tmp_path):
    settings = compose_config(["+experiment=rae2_xl", f"data.source.root={tmp_path}"])
    with pytest.raises(DiffxError, match=r"diffx\.prepare latents .* --autoencoder rae2_dinov3_l --flip`"):
        make(settings.data.source)
