"""Which process of a run this is. torchrun and SLURM's launchers set RANK and WORLD_SIZE; without them there is one."""

import os
from collections.abc import Iterator
from contextlib import contextmanager

import torch
import torch.distributed as dist
from torch import Tensor


def rank() -> int:
    """This process's number, counted from 0."""
    return int(os.environ.get("RANK", 0))


def world() -> int:
    """How many processes train together."""
    return int(os.environ.get("WORLD_SIZE", 1))


def is_first() -> bool:
    """Whether this process is the one that writes and prints."""
    return rank() == 0


def gather(part: Tensor) -> Tensor:
    """The rows (n, ...) of all ranks, row i of rank r at place i · world + r; ranks hold equally many or one fewer.

    On every rank; the tensor unchanged where there is one.
    """
    if world() == 1:
        return part
    counts = [torch.zeros(1, dtype=torch.int64, device=part.device) for _ in range(world())]
    dist.all_gather(counts, torch.tensor([len(part)], device=part.device))
    longest = int(max(counts))
    padded = torch.cat([part, part.new_zeros(longest - len(part), *part.shape[1:])])
    parts = [torch.empty_like(padded) for _ in range(world())]
    dist.all_gather(parts, padded)
    return torch.stack(parts, dim=1).flatten(0, 1)[: int(sum(counts))]


@contextmanager
def first_goes_ahead() -> Iterator[None]:
    """The first process of each node does something, such as filling a cache, while the others wait."""
    local = int(os.environ.get("LOCAL_RANK", 0))
    if local and dist.is_initialized():
        dist.barrier()
    yield
    if not local and dist.is_initialized():
        dist.barrier()
