"""The order of training images, addressed by step, so that resuming needs no state."""

import itertools
from collections.abc import Callable, Iterator
from functools import partial

import numpy as np
import torch
from torch import Tensor

from diffx.errors import DiffxError


class StepBatches:
    """Endless batches of indices: the k-th item is this rank's share of global batch `start + k`.

    Global batch k is the slice [k·batch_size, (k+1)·batch_size) of an endless row of permutations, one per epoch, that
    of epoch e made of (seed, e) alone; a batch may cross from one epoch into the next. Rank r of w takes every w-th
    index, beginning with its r-th. So the global batches are the same at any world size, and a run that resumes at
    step k with `start=k` sees what it would have seen uninterrupted. There is no length: training stops by steps.

    With `parts` a rank's share comes in so many items, one for each micro-batch: as if rank r were the ranks
    r·parts … r·parts + parts - 1 of world·parts.

    Args:
        size: number of training images.
        batch_size: images per step, summed over all ranks and parts.
        seed: not negative.
        start: the first step.
        rank, world: this process and how many there are.
        order: the permutation of all images of (seed, epoch); None: `permutation`.

    Yields:
        int64 (batch_size / (world · parts),) indices.

    Raises:
        DiffxError: a size, seed or rank that cannot be, or a batch that does not divide evenly among the ranks.
    """

    def __init__(
        self,
        size: int,
        batch_size: int,
        seed: int,
        start: int = 0,
        rank: int = 0,
        world: int = 1,
        parts: int = 1,
        order: Callable[[int, int], Tensor] | None = None,
    ) -> None:
        if size < 1 or batch_size < 1:
            raise DiffxError(f"{size} training images in batches of {batch_size}: both have to be at least 1.")
        if seed < 0 or start < 0:
            raise DiffxError(f"seed={seed} and start={start}: neither may be negative.")
        if not 0 <= rank < world:
            raise DiffxError(f"rank={rank} is not one of {world} processes, which count from 0.")
        if batch_size % (shares := world * parts):
            fits = max(shares, batch_size // shares * shares)
            each = f" of {parts} micro-batches each" if parts > 1 else ""
            raise DiffxError(
                f"batch_size={batch_size} does not divide among {world} processes{each}. Try batch_size={fits}."
            )
        self.size, self.batch_size, self.seed = size, batch_size, seed
        self.start, self.rank, self.world, self.parts = start, rank, world, parts
        self._order = order or partial(permutation, size)

    def __iter__(self) -> Iterator[Tensor]:
        epoch, order = -1, torch.empty(0, dtype=torch.int64)
        for step in itertools.count(self.start):
            position, slices = step * self.batch_size, []
            stop = position + self.batch_size
            while position < stop:
                if position // self.size != epoch:
                    epoch = position // self.size
                    order = self._order(self.seed, epoch)
                part = order[position % self.size :][: stop - position]
                slices.append(part)
                position += len(part)
            batch = torch.cat(slices)
            for share in range(self.rank * self.parts, (self.rank + 1) * self.parts):
                yield batch[share :: self.world * self.parts]


def permutation(size: int, seed: int, epoch: int) -> Tensor:
    """The order of one epoch, int64 (size,).

    Sorting raw Philox output gives the same order under every version of NumPy, which promises that of its bit
    generators and not of `permutation`.
    """
    keys = np.random.Philox(key=np.array([seed, epoch], dtype=np.uint64)).random_raw(size)
    return torch.from_numpy(np.argsort(keys, kind="stable"))
