"""Commands that run on all GPUs of this machine, one process each."""

import datetime
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch

from diffx import ranks
from diffx.errors import DiffxError
from diffx.processes.children import run_ranks, this_python

PATIENCE = datetime.timedelta(days=7)  # ranks wait for each other for as long as the slowest one samples


def runs_here(devices: int | None) -> bool:
    """Whether one process is enough for so many devices (None: all GPUs), or this is one of several already."""
    return ranks.world() > 1 or _count(devices) < 2


def start_processes(module: str, arguments: Sequence[str], devices: int | None) -> None:
    """Run `python -m MODULE ARGUMENTS` in `devices` processes (None: one for each GPU) and wait for them.

    Raises:
        DiffxError: one of them failed; its message stands above.
    """
    if code := run_ranks(this_python(module, *arguments), _count(devices)):
        raise DiffxError(f"A process of {module} failed (exit code {code}); its message stands above.")


@contextmanager
def process_group() -> Iterator[None]:
    """The processes that start_processes or torchrun started can wait for each other inside this block."""
    import torch
    import torch.distributed as dist

    if ranks.world() == 1 or dist.is_initialized():
        yield
        return
    if torch.cuda.is_available():
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", 0)))
    dist.init_process_group("cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo", timeout=PATIENCE)
    try:
        yield
    finally:
        dist.destroy_process_group()


def _count(devices: int | None) -> int:
    if devices is not None:
        return devices
    import torch

    return torch.cuda.device_count()


def pick_device(accelerator: str) -> torch.device:
    """The device of this process that "auto", "cpu" or "cuda" means here."""
    if accelerator not in ("auto", "cpu", "cuda"):
        raise DiffxError(f"trainer.accelerator={accelerator} is not known; type auto, cpu or cuda.")
    available = torch.cuda.is_available()
    if accelerator == "cuda" and not available:
        raise DiffxError("trainer.accelerator=cuda, but torch sees no GPU here; type trainer.accelerator=cpu.")
    if available and accelerator != "cpu":
        return torch.device("cuda", int(os.environ.get("LOCAL_RANK", 0)))
    return torch.device("cpu")


def cost_unit(device: "torch.device") -> str:
    """What training on this device is counted in: "gpu_hours", or "cpu_hours" on a CPU."""
    return "cpu_hours" if device.type == "cpu" else "gpu_hours"
