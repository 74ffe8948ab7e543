"""Real images as a metric wants them: many, in batches, as uint8, and with what identifies them."""

import copy
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from diffx.data.batches import permutation

if TYPE_CHECKING:
    from diffx.data import Data


@dataclass(frozen=True)
class RealImages:
    """Images that statistics can be computed of.

    facts: what identifies them. batches: given a batch size, a first image and a step, those images as uint8
    (b, C, H, W), of `count` in all.
    """

    facts: dict[str, Any]
    count: int
    batches: Callable[[int, int, int], Iterator[Tensor]]


def training_images(data: "Data", indices: Sequence[int], batch_size: int) -> Iterator[Tensor]:
    """Training images `indices` as uint8 (b, C, H, W).

    Raises:
        DiffxError: at once, where the data set has no images at hand.
    """
    source = copy.copy(data)  # asked for images, a data set reads them in every training batch too
    source.provide(["image"], 0)
    return (source.batch(part)["image"] for part in torch.tensor(indices, dtype=torch.long).split(batch_size))


def in_random_order(size: int, count: int, seed: int) -> list[int]:
    """`count` of `size` images; where there are fewer, they come again."""
    epochs = [permutation(size, seed, epoch) for epoch in range(-(-count // size))]
    return torch.cat(epochs)[:count].tolist()
