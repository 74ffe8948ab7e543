"""What float32 means on a GPU, set here and nowhere else: torch has a switch for products and one for convolutions, and
their defaults differ, so that the one would be rounded to TF32 and the other not."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch  # the commands set OpenMP's waiting policy first, so that every function here imports it late


def set_tf32(on: bool) -> None:
    """From now on products and convolutions of float32 round to TF32, or neither does."""
    import torch

    torch.set_float32_matmul_precision("high" if on else "highest")
    torch.backends.cudnn.allow_tf32 = on


@contextmanager
def tf32(on: bool) -> Iterator[None]:
    """The same inside this block."""
    import torch

    products, convolutions = torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32
    set_tf32(on)
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(products)
        torch.backends.cudnn.allow_tf32 = convolutions


@contextmanager
def arithmetic(precision: str, device: "torch.device") -> Iterator[None]:
    """Inside this block networks on `device` compute in float32 ("32"), in TF32 ("tf32"), or under autocast in bfloat16
    ("bf16")."""
    import torch

    with (
        tf32(precision != "32" and device.type == "cuda"),
        torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16"),
    ):
        yield
