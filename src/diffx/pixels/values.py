"""Between images and what a network sees: uint8 levels and numbers in [-1, 1]."""

import torch
from torch import Tensor

from diffx.errors import DiffxError

ROUNDINGS = {"nearest": 128.0, "truncate": 127.5}
"""What is added to 127.5 x before it is cut off to a level."""


def signed(images: Tensor) -> Tensor:
    """uint8 levels as float32 in [-1, 1]."""
    return images.float() / 127.5 - 1


def to_uint8(x: Tensor, rounding: str = "nearest") -> Tensor:
    """Values in [-1, 1] as uint8 levels; values outside are black or white.

    rounding: "nearest", 127.5 x + 128 cut off, as in DiT, SiT and EDM2; "truncate", 127.5 x + 127.5 cut off, as in
    REPA's code and those made from it, on average half a level darker.

    Raises:
        DiffxError: another rounding.
    """
    check_rounding(rounding)
    return (127.5 * x + ROUNDINGS[rounding]).clamp(0, 255).to(torch.uint8)


def check_rounding(rounding: str) -> None:
    """Raises DiffxError for one that is not known."""
    if rounding not in ROUNDINGS:
        raise DiffxError(f"eval.rounding={rounding} is not known; type eval.rounding=nearest or truncate.")
