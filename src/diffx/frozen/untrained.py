"""The name "random" in place of frozen weights: networks of the right shapes that nobody has trained, so that every
command of docs/imagenet.md can be lived through without a download. What they measure means nothing, which is said.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from rich.console import Console

RANDOM = "random"
_said: set[str] = set()


@contextmanager
def _always_the_same() -> Iterator[None]:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        yield


def make_untrained(what: str, make: Callable[[], Any]) -> Any:
    """What `make` makes, with the same random weights every time; said in red, once in a process."""
    if what not in _said:
        _said.add(what)
        words = f"{what}=random: weights that nobody has trained, to try commands out. Its numbers mean nothing."
        Console(stderr=True, soft_wrap=True).print(words, style="bold red", highlight=False)
    with _always_the_same():
        return make()
