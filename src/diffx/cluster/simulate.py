"""A step on so many GPUs, from its parts: arithmetic, the optimizer's pass, sums over GPUs, reading, saving, failures.

The formulas are closed, and each is a test. What they leave out: stragglers, warm-up, evaluation, a network shared with
others, and that small batches make products slower.
"""

import math
from dataclasses import dataclass, replace

from diffx.cluster.machine import PER_DEVICE, Machine
from diffx.cluster.work import GRADIENT, Work
from diffx.errors import DiffxError

FORWARD, BACKWARD = 1 / 3, 2 / 3  # of a step's arithmetic
TAIL = 56  # bytes of memory moved for a parameter: norm 4, AdamW 28, EMA 12, to bfloat16 and back 12
WEIGHT = 2  # bytes of a weight that travels in bfloat16
PCIE = 25e9  # bytes/s from a GPU to its host
DAY = 86_400.0


@dataclass(frozen=True)
class Step:
    """Of a step on `devices` GPUs, seconds: arithmetic, tail (optimizer and average), links (sums and gathers that
    arithmetic does not hide), reading (that neither hides). alone: of one GPU with as many images. lost: share of the
    wall-clock that saving and failures take."""

    devices: int
    batch: int
    arithmetic: float
    tail: float
    links: float
    reading: float
    alone: float
    lost: float = 0.0

    @property
    def seconds(self) -> float:
        return self.arithmetic + self.tail + self.links + self.reading

    @property
    def images_per_second(self) -> float:
        """While it trains."""
        return self.batch / self.seconds

    @property
    def efficiency(self) -> float:
        """Images a second and GPU over those of one GPU with as many images to itself, failures included."""
        return (1 - self.lost) * self.alone / self.seconds

    @property
    def binds(self) -> str:
        """The part that costs most beside arithmetic."""
        parts = {"optimizer": self.tail, "links": self.links, "reading": self.reading}
        shares = {name: seconds / self.seconds for name, seconds in parts.items()} | {"failures": self.lost}
        name = max(shares, key=lambda part: shares[part])
        return f"{name} {shares[name]:.0%}"

    def hours(self, images: float) -> float:
        """Of wall-clock, to train on so many images."""
        return images / self.images_per_second / (1 - self.lost) / 3600


def simulate(work: Work, machine: Machine, devices: int) -> Step:
    """A step of `work` on `devices` GPUs.

    Raises:
        DiffxError: its states do not fit a GPU, or failures come faster than a restart.
    """
    _check_memory(work, machine, devices)
    batch = batch_on(work, devices)
    each = math.ceil(batch / devices)
    arithmetic = each * seconds_of_image(work, machine)
    whole_tail = TAIL * work.parameters / machine.chip.copies
    tail = whole_tail / devices if work.sharded else whole_tail
    links = _links(work, machine, devices, arithmetic)
    busy = arithmetic + tail + links
    together = min(devices, machine.node)
    read = each * together * (machine.sample_bytes or work.sample_bytes) / (machine.storage * 1e9)
    step = Step(devices, batch, arithmetic, tail, links, max(0.0, read - busy), arithmetic + whole_tail)
    return _with_losses(step, work, machine)


def batch_on(work: Work, devices: int) -> int:
    """The settings' batch; with less than one image for each GPU, PER_DEVICE for each."""
    return work.batch if devices <= work.batch else PER_DEVICE * devices


def seconds_of_image(work: Work, machine: Machine) -> float:
    """Arithmetic of one image on one GPU: measured, or FLOPs over what products reach."""
    if machine.step_ms is None:
        return work.flops / (machine.chip.peak * machine.utilisation)
    if machine.step_batch is None:
        raise DiffxError("step_ms= is the time of a step of some images; type step_batch=64 as well, if it had 64.")
    tail = TAIL * work.parameters / machine.chip.copies
    if machine.step_ms / 1e3 <= tail:
        raise DiffxError(
            f"step_ms={machine.step_ms:g} is less than the optimizer's pass over {work.parameters / 1e6:.0f}M "
            f"parameters takes on {machine.gpu} ({tail * 1e3:.1f} ms); type the milliseconds of a whole step."
        )
    return (machine.step_ms / 1e3 - tail) / machine.step_batch


def sum_seconds(size: float, devices: int, machine: Machine) -> float:
    """To sum `size` bytes over GPUs so that each has all: a ring, 2 (N - 1) / N · size over the bandwidth of a GPU's
    share of the slowest link, and the hops of a tree there and back."""
    return 2 * _half_ring(size, devices, machine)


def _half_ring(size: float, devices: int, machine: Machine) -> float:
    """To gather `size` bytes, or to sum them and keep a part each: half of what a whole sum takes."""
    if devices == 1:
        return 0.0
    inside, network = machine.chip.link, min(devices, machine.node) * machine.nic / 8 * 1e9
    bandwidth = inside if devices <= machine.node else min(inside, network)
    hops = math.ceil(math.log2(devices)) * machine.latency * 1e-6
    return (devices - 1) / devices * size / (bandwidth * machine.collectives) + hops


def _links(work: Work, machine: Machine, devices: int, arithmetic: float) -> float:
    """What sums and gathers add to a step. Blocks are summed one by one while the backward pass goes on with the next,
    so that what arithmetic does not hide, and at least the last block's, is waited for."""
    if devices == 1:
        return 0.0
    parts, share = work.blocks, work.parameters / work.blocks
    if not work.sharded:
        whole = parts * sum_seconds(GRADIENT * share, devices, machine)
        return max(whole / parts, whole - BACKWARD * arithmetic)
    gathered = parts * _half_ring(WEIGHT * share, devices, machine)
    summed = parts * _half_ring(GRADIENT * share, devices, machine)
    ahead = max(gathered / parts, gathered - FORWARD * arithmetic)
    return ahead + max(summed / parts, summed - BACKWARD * arithmetic)


def _with_losses(step: Step, work: Work, machine: Machine) -> Step:
    """The share of the wall-clock that goes to copies for checkpoints, to restarts and to what is trained again."""
    every = checkpoint_seconds(work, machine)
    copying = work.saved / (step.devices if work.sharded else 1) / PCIE / every
    failing = machine.failures / 1000 / DAY * step.devices * (60 * machine.restart + every / 2)
    if copying + failing >= 1:
        raise DiffxError(
            f"With failures={machine.failures:g} for 1,000 GPU-days {step.devices:,} GPUs fail every "
            f"{DAY / (machine.failures / 1000 * step.devices) / 60:.1f} minutes, and a restart and what is trained "
            f"again take {machine.restart + every / 120:.1f}: it never ends. Type smaller failures= or devices=."
        )
    return replace(step, lost=copying + failing)


def checkpoint_seconds(work: Work, machine: Machine) -> float:
    """Between checkpoints: checkpoint_minutes, or so long that writing one takes checkpoint_share of it."""
    return max(60 * work.minutes, work.saved / (machine.saving * 1e9) / work.share)


def _check_memory(work: Work, machine: Machine, devices: int) -> None:
    each = work.held / (devices if work.sharded else 1)
    if each > machine.chip.memory:
        how = "type trainer.strategy=fsdp" if not work.sharded else "type more devices="
        raise DiffxError(
            f"Weights, gradients, moments and average take {each / 1e9:.0f} GB on each of {devices} GPUs, and "
            f"{machine.gpu} has {machine.chip.memory / 1e9:.0f}; {how}, or a smaller backbone=."
        )
