"""Digits: 1,797 real images, split once and for all."""

import pytest
import torch
from sklearn.datasets import load_digits

from diffx.data import Digits
from diffx.errors import DiffxError


@pytest.fixture(scope="module")
def digits() -> Digits:
    return Digits()


def test_five_hundred_of_the_1797_are_held_out_fifty_of_each_class(digits):
    assert (len(digits), len(digits.reference())) == (1297, 500)
    assert digits.reference_labels().bincount().tolist() == [50] * 10


def test_training_and_held_out_images_are_the_1797_without_overlap():
    digits = Digits(size=8)
    ours = torch.cat([digits.batch(torch.arange(1297))["image"], digits.reference()]).flatten(1)
    theirs = (torch.from_numpy(load_digits().images) * (255 / 16)).round().to(torch.uint8).flatten(1)
    assert sorted(ours.tolist()) == sorted(theirs.tolist())


def test_the_split_is_the_same_at_every_size(digits):
    indices = torch.arange(1297)
    assert torch.equal(Digits(8).batch(indices)["y"], digits.batch(indices)["y"])


@pytest.mark.parametrize("size", [8, 16, 32])
def test_a_batch_holds_the_image_its_values_in_minus_one_to_one_and_its_class(size):
    digits = Digits(size)
    batch = digits.batch(torch.tensor([0, 5, 1296]))
    assert digits.shape == (1, size, size)
    assert batch["image"].shape == batch["x"].shape == (3, *digits.shape)
    assert (batch["image"].dtype, batch["x"].dtype, batch["y"].dtype) == (torch.uint8, torch.float32, torch.int64)
    assert torch.equal(batch["x"], batch["image"].float() / 127.5 - 1)


def test_decoding_undoes_the_scaling_of_every_grey_level(digits):
    levels = torch.arange(256, dtype=torch.uint8).reshape(1, 1, 16, 16)
    assert torch.equal(digits.decode(levels.float() / 127.5 - 1), levels)


def test_decoding_clamps_what_is_outside(digits):
    assert digits.decode(torch.tensor([-3.0, 3.0])).tolist() == [0, 255]


def test_the_identity_tells_sizes_apart_and_stays_the_same(digits):
    assert digits.identity == Digits(16).identity != Digits(32).identity


def test_a_size_that_digits_do_not_come_in_is_refused_with_one_that_they_do():
    with pytest.raises(DiffxError, match=r"data\.size=28.*data\.size=16"):
        Digits(size=28)
