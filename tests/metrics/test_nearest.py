"""The distance to the nearest training image: what tells copies from samples."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from diffx.metrics.nearest import nearest_distance


def noise(count: int, seed: int, size: int = 8) -> torch.Tensor:
    rng = torch.Generator().manual_seed(seed)
    return torch.randint(256, (count, 3, size, size), dtype=torch.uint8, generator=rng)


def test_a_copy_of_a_training_image_scores_exactly_zero():
    training = noise(300, seed=0, size=32)
    assert nearest_distance(training.flip(0), training).tolist() == [0.0] * 300


def test_black_against_white_is_one():
    black, white = torch.zeros(1, 1, 4, 4, dtype=torch.uint8), torch.full((1, 1, 4, 4), 255, dtype=torch.uint8)
    assert nearest_distance(black, white).tolist() == [1.0]


@pytest.mark.parametrize("size", [4, 32])
def test_a_brighter_copy_scores_how_much_brighter_it_is_at_any_size(size):
    image = noise(1, seed=1, size=size) // 2
    assert nearest_distance(image + 51, image).item() == pytest.approx(0.2, rel=1e-5)


def test_an_image_moved_by_one_pixel_scores_the_root_mean_square_of_its_edges():
    image = torch.zeros(1, 1, 8, 8, dtype=torch.uint8)
    image[..., :4] = 255
    moved = image.roll(1, dims=3)  # two of eight columns change from black to white or back
    assert nearest_distance(moved, image).item() == pytest.approx((2 / 8) ** 0.5)


def test_it_is_the_smallest_of_the_distances_measured_one_by_one():
    images, training = noise(20, seed=2), noise(60, seed=3)
    differences = images[:, None].double() / 255 - training[None].double() / 255
    expected = differences.square().mean(dim=(2, 3, 4)).sqrt().amin(dim=1)
    torch.testing.assert_close(nearest_distance(images, training).double(), expected, rtol=1e-5, atol=0)


@given(chunk=st.integers(1, 70))
def test_the_chunk_does_not_matter(chunk):
    images, training = noise(10, seed=4), noise(60, seed=5)
    torch.testing.assert_close(nearest_distance(images, training, chunk), nearest_distance(images, training))


def test_more_training_images_never_put_a_sample_farther():
    images, training = noise(30, seed=6), noise(100, seed=7)
    assert (nearest_distance(images, training) <= nearest_distance(images, training[:10])).all()
