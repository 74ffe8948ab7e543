"""Shapes: images made from a seed, the same on every day and for every count."""

import pickle

import numpy as np
import pytest
import torch

from diffx.data import Shapes
from diffx.data.drawing import OUTLINES, UNIFORMS, draw
from diffx.errors import DiffxError


@pytest.fixture(autouse=True)
def home(monkeypatch, tmp_path):
    monkeypatch.setenv("DIFFX_HOME", str(tmp_path))
    return tmp_path


def images(shapes: Shapes, *indices: int) -> torch.Tensor:
    return shapes.batch(torch.tensor(indices))["image"]


def test_a_larger_set_begins_with_the_smaller_one():
    indices = torch.arange(230)
    assert torch.equal(Shapes(count=230).batch(indices)["image"], Shapes(count=450).batch(indices)["image"])


def test_another_seed_gives_other_images_of_the_same_classes():
    one, other = (Shapes(count=20, seed=seed).batch(torch.arange(20)) for seed in (0, 1))
    assert torch.equal(one["y"], other["y"])
    assert (one["image"] != other["image"]).flatten(1).any(dim=1).all()


def test_any_image_can_be_drawn_by_itself():
    shapes = Shapes(count=300)
    alone = draw(np.array([257 % 10]), shapes._uniforms(0, 257, 258), size=32)
    assert torch.equal(torch.from_numpy(alone), images(shapes, 257))


def test_a_batch_holds_the_image_its_values_in_minus_one_to_one_and_its_class():
    shapes = Shapes(count=30, size=16)
    batch = shapes.batch(torch.tensor([3, 27]))
    assert shapes.shape == (3, 16, 16)
    assert batch["image"].shape == batch["x"].shape == (2, 3, 16, 16)
    assert (batch["image"].dtype, batch["x"].dtype, batch["y"].dtype) == (torch.uint8, torch.float32, torch.int64)
    assert torch.equal(batch["x"], batch["image"].float() / 127.5 - 1)
    assert batch["y"].tolist() == [3, 7]


def test_no_image_is_on_both_sides_of_the_split():
    shapes = Shapes(count=2000, size=8)
    train = {image.tobytes() for image in images(shapes, *range(2000)).numpy()}
    held_out = {image.tobytes() for image in shapes.reference().numpy()}
    assert (len(train), len(held_out)) == (2000, 10_000)
    assert not train & held_out


def test_the_held_out_images_do_not_depend_on_the_count():
    assert torch.equal(Shapes(count=10, size=8).reference(), Shapes(count=20, size=8).reference())
    assert Shapes(count=10, size=8).reference_labels().bincount().tolist() == [1000] * 10


def test_the_class_decides_the_outline_and_nothing_else():
    uniforms = np.repeat(np.random.default_rng(0).random((1, UNIFORMS), dtype=np.float32), 10, axis=0)
    drawn = draw(np.arange(10), uniforms, size=32).astype(int)
    corners = drawn[:, :, [0, 0, -1, -1], [0, -1, 0, -1]]
    assert (corners == corners[0]).all(), "the ground is the same for all classes"
    differing = (drawn[:, None] != drawn[None]).any(axis=2).mean(axis=(2, 3))
    assert (differing[~np.eye(10, dtype=bool)] > 0.03).all(), "every two classes differ in a visible part of the image"


@pytest.mark.parametrize("name", OUTLINES)
def test_an_outline_stays_inside_its_radius_so_that_no_shape_is_cut_off(name):
    angle, radius = np.meshgrid(np.linspace(0, 2 * np.pi, 720), np.linspace(1.03, 2, 20))
    outside = OUTLINES[name](radius * np.cos(angle), radius * np.sin(angle))
    assert (outside > 0).all()


def test_the_same_numbers_draw_the_same_picture_at_any_resolution():
    uniforms = np.random.default_rng(0).random((20, UNIFORMS), dtype=np.float32)
    labels = np.arange(20) % 10
    fine, coarse = (torch.from_numpy(draw(labels, uniforms, size)).float() for size in (128, 32))
    shrunk = torch.nn.functional.avg_pool2d(fine, 4)
    # Edges are as wide in pixels at every size, so they differ; surfaces agree to a few levels.
    assert (shrunk - coarse).abs().median() < 4


def test_brightness_says_nothing_about_the_class_and_varies_within_it():
    brightness = images(Shapes(count=2000), *range(2000)).float().mean(dim=(1, 2, 3)).reshape(200, 10)
    assert (brightness.std(dim=0) > 30).all()
    assert brightness.mean(dim=0).std() < brightness.std(dim=0).mean() / 5


def test_a_truncated_file_is_drawn_again_with_one_printed_line(home, capsys):
    before = images(Shapes(count=40), 0, 39)
    [file] = (home / "data").glob("*.npy")
    file.write_bytes(file.read_bytes()[:-100])
    assert torch.equal(images(Shapes(count=40), 0, 39), before)
    assert capsys.readouterr().out.count("\n") == 1


def test_nothing_is_drawn_before_the_first_batch(home):
    Shapes(count=10**9)
    assert list(home.iterdir()) == []


def test_a_pickle_carries_the_path_and_not_the_images():
    shapes = Shapes(count=500)
    expected = images(shapes, 499)
    sent = pickle.dumps(shapes)
    assert len(sent) < 2000
    assert torch.equal(images(pickle.loads(sent), 499), expected)


def test_the_identity_tells_counts_seeds_and_sizes_apart():
    made = [Shapes(10), Shapes(11), Shapes(10, seed=1), Shapes(10, size=16), Shapes(10)]
    assert len({shapes.identity for shapes in made}) == 4


@pytest.mark.parametrize("wrong", [{"count": 0}, {"seed": -1}, {"size": 4}, {"size": 30}, {"size": 1024}])
def test_a_setting_that_cannot_be_is_refused_by_its_name(wrong):
    [name] = wrong
    with pytest.raises(DiffxError, match=rf"data\.{name}={wrong[name]}"):
        Shapes(**wrong)
