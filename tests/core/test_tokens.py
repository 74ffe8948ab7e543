"""Tokens know their places in the full grid."""

import torch
from hypothesis import given
from hypothesis import strategies as st

from diffx.tokens import Tokens, gather, keep, random_subset, scatter

x = torch.randn(2, 5, 3, generator=torch.Generator().manual_seed(0))
index = torch.tensor([[4, 1], [0, 3]])


def test_gather_takes_the_rows_of_each_sample():
    assert torch.equal(gather(x, index), torch.stack([x[0, [4, 1]], x[1, [0, 3]]]))


def test_scatter_puts_rows_where_gather_took_them_and_leaves_the_rest():
    rows = torch.ones(2, 2, 3)
    out = scatter(x, index, rows)
    assert torch.equal(gather(out, index), rows)
    assert torch.equal(out[0, [0, 2, 3]], x[0, [0, 2, 3]])
    assert torch.equal(out[1, [1, 2, 4]], x[1, [1, 2, 4]])


def test_scatter_returns_the_type_of_what_it_writes_into():
    assert scatter(x, index, torch.ones(2, 2, 3).bfloat16()).dtype == torch.float32


def test_keeping_all_present_tokens_first_gives_ids_equal_to_the_index():
    assert torch.equal(keep(Tokens(x), index).ids, index)


def test_keeping_twice_gives_places_in_the_full_grid():
    once = keep(Tokens(x), torch.tensor([[4, 2, 1], [3, 1, 0]]))
    twice = keep(once, torch.tensor([[2, 0], [0, 1]]))
    assert twice.ids.tolist() == [[1, 4], [3, 1]]
    assert torch.equal(twice.x, gather(x, twice.ids))


@given(present=st.integers(1, 40), share=st.floats(0.05, 1), seed=st.integers(0, 2**31))
def test_a_random_subset_is_sorted_and_has_no_repetition(present, share, seed):
    kept = max(1, int(share * present))
    subset = random_subset(3, present, kept, torch.Generator().manual_seed(seed))
    assert subset.shape == (3, kept)
    assert (subset.diff(dim=1) > 0).all()
    assert subset.min() >= 0
    assert subset.max() < present


def test_every_token_is_kept_equally_often():
    subset = random_subset(20000, 8, 2, torch.Generator().manual_seed(0))
    share = torch.bincount(subset.flatten(), minlength=8) / 20000
    # Six standard deviations of a share of 1/4 among 20,000.
    assert (share - 0.25).abs().max() < 6 * (0.25 * 0.75 / 20000) ** 0.5


def test_samples_keep_different_tokens():
    subset = random_subset(8, 16, 8, torch.Generator().manual_seed(0))
    assert len(subset.unique(dim=0)) > 1
