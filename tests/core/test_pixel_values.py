"""Levels: rounding as the published codes do."""

import pytest
import torch

from diffx.errors import DiffxError
from diffx.pixels.values import signed, to_uint8


@pytest.fixture
def every_level() -> torch.Tensor:
    return torch.arange(256, dtype=torch.uint8)


def test_levels_survive_the_way_there_and_back(every_level: torch.Tensor) -> None:
    assert torch.equal(to_uint8(signed(every_level)), every_level)


def test_what_is_beyond_black_and_white_is_cut_off() -> None:
    assert to_uint8(torch.tensor([-3.0, -1, 1, 3])).tolist() == [0, 0, 255, 255]
    assert to_uint8(torch.tensor([-3.0, 1, 3]), "truncate").tolist() == [0, 255, 255]


def test_nearest_goes_to_the_nearest_level_and_truncate_to_the_one_below(every_level: torch.Tensor) -> None:
    for share, up in [(0.25, 0), (0.75, 1)]:
        between = (every_level[:-1].double() + share) / 127.5 - 1
        assert torch.equal(to_uint8(between), every_level[:-1] + up)
        assert torch.equal(to_uint8(between, "truncate"), every_level[:-1])


def test_truncate_is_repas_formula() -> None:
    x = torch.linspace(-1.1, 1.1, 1001, dtype=torch.float64)
    assert torch.equal(to_uint8(x, "truncate"), (255 * (x + 1) / 2).clamp(0, 255).to(torch.uint8))


def test_another_rounding_is_refused() -> None:
    with pytest.raises(DiffxError, match="nearest or truncate"):
        to_uint8(torch.zeros(1), "floor")
