"""Rows of shards by position and by key."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from diffx.data.shards import ShardWriter, join, open_shards, write_json
from diffx.errors import DiffxError

KEYS = st.lists(st.text("abé/0", min_size=1, max_size=6).map(str.encode), unique=True, max_size=20)


@given(KEYS, KEYS)
def test_joining_finds_each_key_where_it_is_and_minus_one_where_it_is_not(wanted, have):
    rows = join(np.array(wanted, dtype=np.bytes_), np.array(have, dtype=np.bytes_))
    assert rows.tolist() == [have.index(key) if key in have else -1 for key in wanted]


def test_rows_come_in_the_order_asked_for_across_shards_and_repeated(tmp_path):
    for shard in range(3):
        writer = ShardWriter(tmp_path, shard, (2,), "int32", capacity=100)
        for row in range(4 * shard, 4 * shard + 4):
            writer.add(f"sample{row}", row % 2, np.full(2, row))
        writer.close()
    facts = {"format": 1, "shape": [2], "dtype": "int32", "shards": [{"samples": 4}] * 3}
    write_json(tmp_path / "manifest.json", facts)
    shards = open_shards(tmp_path, "")
    rows = np.array([11, 0, 5, 5, 3])
    assert shards.read(rows).tolist() == [[row, row] for row in rows]
    assert shards.index()[0].tolist() == [f"sample{row}".encode() for row in range(12)]


def test_a_format_of_another_version_is_refused(tmp_path):
    write_json(tmp_path / "manifest.json", {"format": 99})
    with pytest.raises(DiffxError, match="format 99"):
        open_shards(tmp_path, "")


def test_an_unfinished_shard_leaves_nothing_that_counts(tmp_path):
    ShardWriter(tmp_path, 0, (2,), "uint8", 4).add("a", 0, np.zeros(2))
    assert not list(tmp_path.glob("*.json"))
    assert not (tmp_path / "shard-00000.npy").exists()
