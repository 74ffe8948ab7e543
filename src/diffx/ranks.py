"""Which process of a run this is. diffx.processes and torchrun set RANK and WORLD_SIZE; without them there is one."""

import os


def rank() -> int:
    """This process's number, counted from 0."""
    return int(os.environ.get("RANK", 0))


def world() -> int:
    """How many processes train together."""
    return int(os.environ.get("WORLD_SIZE", 1))


def is_first() -> bool:
    """Whether this process is the one that writes and prints."""
    return rank() == 0
