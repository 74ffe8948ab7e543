"""Statistics of many real images are taken in parts, which a kill keeps and ranks share."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import Tensor

from diffx import ranks
from diffx.metrics import reference
from diffx.metrics.real_images import RealImages
from diffx.metrics.reference import computed_reference

COUNT = 45
IMAGES = torch.randint(0, 256, (COUNT, 3, 2, 2), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)


def batches(batch_size: int, first: int, step: int) -> Iterator[Tensor]:
    yield from IMAGES[first::step].split(batch_size)


REAL = RealImages({"made": "here"}, COUNT, batches)


def features(images: Tensor) -> tuple[Tensor, Tensor]:
    flat = images.flatten(1).double()
    return flat[:, :5], flat[:, 5:8]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache, and parts of ten images."""
    monkeypatch.setenv("DIFFX_HOME", str(tmp_path))
    monkeypatch.setattr(reference, "PART", 10)
    return tmp_path / "references"


def test_parts_give_what_the_whole_gives_and_leave_one_file(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = computed_reference(REAL, features, "made", "w", batch_size=3)
    flat = IMAGES.flatten(1).double()
    assert torch.allclose(found.pool.mean, flat[:, :5].mean(0))
    assert torch.allclose(found.pool.cov, flat[:, :5].T.cov())
    assert found.spatial is not None
    assert torch.allclose(found.spatial.cov, flat[:, 5:8].T.cov())
    assert found.features is not None
    assert torch.equal(found.features(), flat[:, :5])  # in the images' order
    assert len(list(folder.glob("*.safetensors"))) == 1
    assert "statistics of real images: 22 of 45, 0:00:0" in capsys.readouterr().out


def test_after_a_kill_only_parts_that_were_not_whole_are_computed_again(folder: Path) -> None:
    seen: list[int] = []

    def killed(images: Tensor) -> tuple[Tensor, Tensor]:
        seen.append(len(images))
        if sum(seen) > 30:
            raise KeyboardInterrupt
        return features(images)

    with pytest.raises(KeyboardInterrupt):
        computed_reference(REAL, killed, "made", "w", batch_size=4)
    again: list[int] = []

    def counted(images: Tensor) -> tuple[Tensor, Tensor]:
        again.append(len(images))
        return features(images)

    computed_reference(REAL, counted, "made", "w", batch_size=4)
    assert sum(again) < COUNT - 20


def test_the_second_of_two_ranks_begins_with_the_second_half(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ranks, "rank", lambda: 1)
    monkeypatch.setattr(ranks, "world", lambda: 2)
    first: list[Tensor] = []

    def kept(images: Tensor) -> tuple[Tensor, Tensor]:
        first.append(images)
        return features(images)

    computed_reference(REAL, kept, "made", "w", batch_size=100)
    assert torch.equal(first[0], IMAGES[2::4])
