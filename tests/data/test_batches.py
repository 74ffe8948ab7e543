"""StepBatches: batch k is the same whoever asks, whenever, and on however many ranks."""

from itertools import islice

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from diffx.data import StepBatches
from diffx.errors import DiffxError

sizes, seeds, starts = st.integers(1, 40), st.integers(0, 2**40), st.integers(0, 30)


def take(batches: StepBatches, count: int) -> list[list[int]]:
    return [batch.tolist() for batch in islice(batches, count)]


@given(size=sizes, per_rank=st.integers(1, 12), world=st.integers(1, 5), seed=seeds, start=starts)
def test_the_global_batches_are_the_same_at_any_world_size(size, per_rank, world, seed, start):
    whole = take(StepBatches(size, per_rank * world, seed, start), 4)
    for rank in range(world):
        share = take(StepBatches(size, per_rank * world, seed, start, rank, world), 4)
        assert share == [batch[rank::world] for batch in whole]


@given(size=sizes, batch_size=st.integers(1, 60), seed=seeds)
def test_each_epoch_covers_every_image_once_though_batches_cross_its_end(size, batch_size, seed):
    epochs = 3
    steps = -(-epochs * size // batch_size)
    stream = [index for batch in take(StepBatches(size, batch_size, seed), steps) for index in batch]
    for epoch in range(epochs):
        assert sorted(stream[epoch * size : (epoch + 1) * size]) == list(range(size))


@given(size=sizes, batch_size=st.integers(1, 60), seed=seeds, start=starts)
def test_starting_at_a_step_equals_skipping_to_it(size, batch_size, seed, start):
    skipped = take(StepBatches(size, batch_size, seed), start + 3)[start:]
    assert take(StepBatches(size, batch_size, seed, start=start), 3) == skipped


def test_epochs_and_seeds_have_orders_of_their_own():
    first, second, third = take(StepBatches(size=100, batch_size=100, seed=7), 3)
    [other] = take(StepBatches(size=100, batch_size=100, seed=8), 1)
    assert len({tuple(order) for order in (first, second, third, other)}) == 4


def test_the_order_is_the_recorded_one():
    assert take(StepBatches(size=10, batch_size=4, seed=0), 3) == [[0, 2, 9, 1], [8, 5, 4, 3], [6, 7, 5, 3]]


def test_iterating_twice_gives_the_same_batches():
    batches = StepBatches(size=10, batch_size=3, seed=0)
    assert take(batches, 5) == take(batches, 5)


def test_indices_are_int64_tensors_and_there_is_no_length():
    batches = StepBatches(size=10, batch_size=4, seed=0)
    assert next(iter(batches)).dtype == torch.int64
    assert not hasattr(batches, "__len__")


def test_a_batch_that_does_not_divide_among_the_processes_is_refused_with_one_that_does():
    with pytest.raises(DiffxError, match=r"batch_size=10 .* 4 processes.*batch_size=8"):
        StepBatches(size=100, batch_size=10, seed=0, world=4)


@pytest.mark.parametrize(
    "wrong", [{"size": 0}, {"batch_size": 0}, {"seed": -1}, {"start": -1}, {"rank": 1}, {"rank": -1}]
)
def test_numbers_that_cannot_be_are_refused(wrong):
    with pytest.raises(DiffxError):
        StepBatches(**({"size": 10, "batch_size": 2, "seed": 0} | wrong))
