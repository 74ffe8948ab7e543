"""Commands that run on all GPUs of this machine, one process each."""

import datetime
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

from diffx import ranks
from diffx.errors import DiffxError
from diffx.processes.children import run_ranks, this_python

if TYPE_CHECKING:
    import torch  # the commands set OpenMP's waiting policy first, so that every function here imports it late

PATIENCE = datetime.timedelta(days=7)  # ranks wait for each other for as long as the slowest one samples


def check_devices(accelerator: str, devices: int) -> None:
    """Raises DiffxError for more devices than there are, and for processes on a CPU where GPUs may have been meant."""
    import torch

    if pick_device(accelerator).type == "cuda":
        if devices > (there := torch.cuda.device_count()):
            raise DiffxError(f"trainer.devices={devices}, and torch sees {there} here; type trainer.devices={there}.")
    elif devices > 1 and accelerator != "cpu":
        raise DiffxError(
            f"trainer.devices={devices}, and torch sees no GPU here; type trainer.accelerator=cpu as well if "
            f"{devices} processes on the processor are meant."
        )


def refuse_too_many(devices: int | None) -> None:
    """Raises DiffxError for fewer processes than one, or more than there are GPUs where there are any."""
    import torch

    there = torch.cuda.device_count()
    if devices is not None and (devices < 1 or 0 < there < devices):
        raise DiffxError(f"--devices {devices}: torch sees {there} GPUs here; type a number from 1 to {max(there, 1)}.")


def runs_here(devices: int | None) -> bool:
    """Whether one process is enough for so many devices (None: all GPUs), or this is one of several already."""
    return ranks.world() > 1 or _count(devices) < 2


def start_processes(module: str, arguments: Sequence[str], devices: int | None) -> None:
    """Run `python -m MODULE ARGUMENTS` in `devices` processes (None: one for each GPU) and wait for them.

    Raises:
        DiffxError: one of them failed, with its own sentence.
    """
    ended = run_ranks(this_python(module, *arguments), _count(devices))
    if ended.code:
        raise DiffxError(ended.explain(module))


def join_processes(accelerator: str = "auto", patience: datetime.timedelta = PATIENCE) -> bool:
    """From now on the processes that start_processes or torchrun started can wait for each other, each with a GPU of
    its own where there are any. Returns whether there are several, which were not joined before."""
    import torch.distributed as dist

    device = own_device(accelerator)
    if ranks.world() == 1 or dist.is_initialized():
        return False
    dist.init_process_group("cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo", timeout=patience)
    return True


@contextmanager
def process_group() -> Iterator[None]:
    """The same inside this block, where there are several: one by itself learns its device from its settings."""
    import torch.distributed as dist

    joined = ranks.world() > 1 and join_processes()
    try:
        yield
    finally:
        if joined:
            dist.destroy_process_group()


def _count(devices: int | None) -> int:
    if devices is not None:
        return devices
    import torch

    return torch.cuda.device_count()


def pick_device(accelerator: str) -> "torch.device":
    """The device of this process that "auto", "cpu" or "cuda" means here."""
    import torch

    if accelerator not in ("auto", "cpu", "cuda"):
        raise DiffxError(f"trainer.accelerator={accelerator} is not known; type auto, cpu or cuda.")
    available = torch.cuda.is_available()
    if accelerator == "cuda" and not available:
        raise DiffxError("trainer.accelerator=cuda, but torch sees no GPU here; type trainer.accelerator=cpu.")
    if available and accelerator != "cpu":
        local, there = int(os.environ.get("LOCAL_RANK", 0)), torch.cuda.device_count()
        if local >= there:
            raise DiffxError(f"Process {local} of this machine has no GPU: torch sees {there}; start so many.")
        return torch.device("cuda", local)
    return torch.device("cpu")


def own_device(accelerator: str) -> "torch.device":
    """The same, and from now on this process's: before anything touches CUDA, since whatever names no GPU (pinned
    memory, an empty tensor, a synchronisation) would else make a context of half a gigabyte on the first GPU."""
    import torch

    device = pick_device(accelerator)
    if device.type == "cuda":
        torch.cuda.set_device(device)
    return device


def cost_unit(device: "torch.device") -> str:
    """What training on this device is counted in: "gpu_hours", or "cpu_hours" on a CPU."""
    return "cpu_hours" if device.type == "cpu" else "gpu_hours"


def write_cost(hours: float, unit: str) -> str:
    """A cost in words: "108 CPU-seconds", and from an hour on "52.1 GPU-hours"."""
    kind = unit.partition("_")[0].upper()
    return f"{hours:.4g} {kind}-hours" if hours >= 1 else f"{hours * 3600:.3g} {kind}-seconds"
