"""Which process of a run this is. diffx.processes and torchrun set RANK and WORLD_SIZE; without them there is one."""

import os
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")


def rank() -> int:
    """This process's number, counted from 0."""
    return int(os.environ.get("RANK", 0))


def world() -> int:
    """How many processes train together."""
    return int(os.environ.get("WORLD_SIZE", 1))


def is_first() -> bool:
    """Whether this process is the one that writes and prints."""
    return rank() == 0


def firsts(find: Callable[[], T]) -> T:
    """What the first process finds, or the error that it raises, in all processes; every one has to call it."""
    import torch.distributed as dist

    if not dist.is_initialized():
        return find()
    found: list[tuple[T | None, Exception | None]] = [(None, None)]
    if is_first():
        try:
            found = [(find(), None)]
        except Exception as error:
            found = [(None, error)]
    dist.broadcast_object_list(found)
    ((value, failure),) = found
    if failure:
        raise failure
    return value  # type: ignore[return-value]  # T may be None


def everyones(value: T) -> list[T]:
    """What all processes bring, in the order of their numbers; every one has to call it, inside a process group."""
    import torch.distributed as dist

    if not dist.is_initialized():
        return [value]
    found: list[T] = [value] * dist.get_world_size()
    dist.all_gather_object(found, value)
    return found
