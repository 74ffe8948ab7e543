"""Float32 that is float32: metrics must not round to TF32 or bfloat16 because training does."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from diffx.processes.arithmetic import tf32


@contextmanager
def exact_float32(device: torch.device) -> Iterator[None]:
    """Neither TF32 nor autocast on `device`, and cuDNN's deterministic convolutions, inside this block."""
    with (
        torch.backends.cudnn.flags(enabled=True, deterministic=True),
        tf32(False),
        torch.autocast(device.type, enabled=False),
    ):
        yield
