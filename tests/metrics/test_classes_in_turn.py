"""The real images of a floor are drawn as samples with balanced labels are: as many of each class."""

import torch
from hypothesis import given
from hypothesis import strategies as st

from diffx.data import Digits
from diffx.metrics.embedded import classes_in_turn

labels = st.lists(st.integers(0, 4), min_size=1, max_size=60).map(torch.tensor)


@given(labels=labels)
def test_every_image_comes_once(labels):
    assert classes_in_turn(labels).sort().values.tolist() == list(range(len(labels)))


@given(labels=labels)
def test_no_class_comes_again_before_all_others_that_are_left_have_come(labels):
    order, turns = labels[classes_in_turn(labels)].tolist(), torch.bincount(labels)
    for taken in range(len(order)):
        counts = torch.bincount(torch.tensor(order[:taken], dtype=torch.int64), minlength=len(turns))
        left = counts < turns
        assert not left.any() or counts.max() - counts[left].min() <= 1


def test_digits_are_taken_from_all_over_the_training_set():
    # scikit-learn's digits come writer by writer, so the first 500 would be the hands of a few.
    everything = Digits(8).batch(torch.arange(1297))["y"]
    chosen = classes_in_turn(everything)[:500]
    assert torch.bincount(everything[chosen]).tolist() == [50] * 10
    assert torch.histc(chosen.float(), bins=5, min=0, max=1297).min() > 70
