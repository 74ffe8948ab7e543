"""Real images as a metric wants them: many, in batches, as uint8, and with what identifies them."""

import copy
from collections.abc import Callable, Iterator
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

    facts: what identifies them. batches: given a batch size, uint8 (b, C, H, W), `count` in all.
    """

    facts: dict[str, Any]
    count: int
    batches: Callable[[int], Iterator[Tensor]]


def training_images(data: "Data", count: int, batch_size: int, seed: int | None = None) -> Iterator[Tensor]:
    """`count` training images uint8 (b, C, H, W): the first ones, or with a seed those of a random order. Where there
    are fewer, they come again.

    Raises:
        DiffxError: at once, where the data set has no images at hand.
    """
    source = copy.copy(data)  # asked for images, a data set reads them in every training batch too
    source.provide(["image"], 0)
    return _batches(source, count, batch_size, seed)


def _batches(data: "Data", count: int, batch_size: int, seed: int | None) -> Iterator[Tensor]:
    for indices in _order(len(data), count, seed).split(batch_size):
        yield data.batch(indices)["image"]


def _order(size: int, count: int, seed: int | None) -> Tensor:
    if seed is None:
        return torch.arange(count) % size
    epochs = [permutation(size, seed, epoch) for epoch in range(-(-count // size))]
    return torch.cat(epochs)[:count]
