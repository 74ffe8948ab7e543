"""Whether all that a run needs is there: found out by one process in a second or two, with the networks on meta, before
anything large is built and before anything is started on several devices."""

from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import torch
from torch import nn

from diffx.assemble.model import TrainingModel, build_model
from diffx.assemble.services import find_services
from diffx.backbone import Backbone, TextShape
from diffx.backbone.layers.fp8 import check_fp8
from diffx.backbone.layers.fused import check_fused
from diffx.checkpoint.post_hoc import LENGTHS
from diffx.config.protocol import precision_of
from diffx.config.settings import Settings
from diffx.config.target import make, target_of
from diffx.curves.prune import check_pruning
from diffx.data import Data, StepBatches
from diffx.data.stream import stream_of
from diffx.errors import DiffxError
from diffx.frozen.autoencoder import SPECS as AUTOENCODERS
from diffx.processes.devices import check_devices, cost_unit, pick_device

NUMBER, HALF, STATES = 4, 2, 2  # bytes of a float32 and of a bfloat16; numbers that AdamW keeps of a parameter
GIB = 2**30


class Ready(NamedTuple):
    """What looking has built: the model without storage, the data, and the device of this process."""

    sketch: TrainingModel
    data: Data
    device: torch.device


def look(settings: Settings) -> Ready:
    """Look for everything that a run needs.

    Raises:
        DiffxError: settings that no model has, no data, no weights of a teacher, decoder or metric, fewer devices than
            are asked for, or too little memory.
    """
    check_pruning(settings.sweep_prune, settings.sweep_metric)
    sketch = build_model(settings, "meta")
    device = pick_device(settings.trainer.accelerator)
    _check_device(settings, device)
    if settings.trainer.fused:
        check_fused(device, sketch.backbone.blocks)
    data: Data = make(settings.source)
    _check_autoencoder(settings, data)
    _check_shape(settings, sketch, data)
    find_services(data.provide(sketch.plan.needs, sketch.backbone.side))
    if stream := stream_of(data):
        stream.check_room(settings.batch_size)
    data.decode(torch.zeros(1, *data.shape))  # a decoder without weights must refuse now, not at the first evaluation
    metrics = settings.eval.metrics
    if look_for := getattr(target_of(metrics), "look_for", None):
        look_for(data, **metrics.arguments)
    check_devices(settings.trainer.accelerator, settings.trainer.devices)
    world = settings.trainer.devices * settings.trainer.num_nodes
    StepBatches(len(data), settings.batch_size, settings.seed, 0, 0, world, settings.trainer.accumulate)
    _check_memory(settings, sketch, device)
    return Ready(sketch, data, device)


def _check_device(settings: Settings, device: torch.device) -> None:
    unit, budget = cost_unit(device), settings.budget
    if budget and list(budget.hours) != [unit]:
        raise DiffxError(
            f"budget is given in {', '.join(budget.hours)}, but this device is metered in {unit}; "
            f"type budget.{unit}= instead."
        )
    if settings.trainer.precision in ("16-mixed", "tf32") and device.type == "cpu":
        raise DiffxError(
            f"trainer.precision={settings.trainer.precision} is for GPUs; type trainer.precision=bf16-mixed or 32-true."
        )
    if settings.trainer.precision == "fp8":
        check_fp8(device)
    precision_of(settings)


def _check_autoencoder(settings: Settings, data: Data) -> None:
    made_by = getattr(data, "autoencoder", None)  # of latents alone
    if settings.autoencoder and made_by in AUTOENCODERS and made_by != settings.autoencoder:
        raise DiffxError(
            f"data={settings.data.name} holds latents of {made_by}, and autoencoder={settings.autoencoder}; type "
            f"autoencoder={made_by}, or another data.source.root."
        )


def _check_shape(settings: Settings, sketch: TrainingModel, data: Data) -> None:
    backbone = sketch.backbone
    if tuple(data.shape) != backbone.shape:
        raise DiffxError(
            f"data={settings.data.name} has samples of shape {data.shape} and the backbone takes {backbone.shape}; "
            f"type data.channels={data.shape[0]} data.size={data.shape[1]}."
        )
    _check_condition(settings.data.name, getattr(data, "text", None), backbone)
    if data.num_classes > backbone.num_classes:
        raise DiffxError(
            f"data={settings.data.name} has {data.num_classes} classes and the backbone {backbone.num_classes}; "
            f"type data.num_classes={data.num_classes}."
        )


def _check_condition(name: str, text: TextShape | None, backbone: Backbone) -> None:
    """Refuse classes for a network that text conditions, the reverse, and text of other sizes than it takes."""
    family = type(backbone).__name__
    if text is None and backbone.text is not None:
        raise DiffxError(
            f"data={name} has classes, and the backbone {family} is conditioned by text; type data=captions, or "
            "backbone=tiny."
        )
    if text is not None and backbone.text is None:
        raise DiffxError(
            f"data={name} has captions, and the backbone {family} is conditioned by classes; type "
            "backbone=mmdit_tiny, or data=shapes."
        )
    if text != backbone.text:
        assert text is not None
        length, channels, pooled = text
        raise DiffxError(
            f"data={name} has captions of {text}, and the backbone takes {backbone.text}; type data.text.length="
            f"{length} data.text.channels={channels} data.text.pooled={pooled}."
        )


def _check_memory(settings: Settings, sketch: TrainingModel, device: torch.device) -> None:
    """Weights, gradients, the optimizer's state and averages have to fit; activations come on top."""
    trainer = settings.trainer
    each = bytes_of_training(sketch.backbone, sketch.plugins, averages_of(settings))
    if trainer.strategy == "fsdp":
        each //= trainer.devices * trainer.num_nodes
    together = trainer.devices if device.type == "cpu" else 1
    there = memory_of(device)
    if each * together > there:
        raise DiffxError(
            f"Weights, gradients, optimizer and averages take {each / GIB:.1f} GiB in each of {trainer.devices} "
            f"processes, and there are {there / GIB:.1f} GiB of memory {'' if together > 1 else 'for each '}here; type "
            "a smaller backbone=, fewer trainer.devices=, or trainer.strategy=fsdp on more of them."
        )
    images = settings.batch_size // (trainer.devices * trainer.num_nodes * trainer.accumulate)
    kept = images * least_bytes_of_an_image(sketch)
    if (each + kept) * together > there:
        raise DiffxError(
            f"{images:,} images at once keep at least {kept / GIB:,.1f} GiB of activations in each process, and there "
            f"are {there / GIB:.1f} GiB of memory here; type a smaller batch_size=, or a larger trainer.accumulate=."
        )


def averages_of(settings: Settings) -> int:
    """How many averages of the network a run keeps."""
    return 1 + len(settings.more_ema_decays) + (len(LENGTHS) if settings.snapshot_steps else 0)


def bytes_of_training(backbone: nn.Module, plugins: Mapping[str, nn.Module], averages: int) -> int:
    """What a process holds in float32 from its first step on, activations left out."""
    plain = sum(parameter.numel() for parameter in backbone.parameters())
    trained = plain + sum(parameter.numel() for plugin in plugins.values() for parameter in plugin.parameters())
    return NUMBER * ((2 + STATES) * trained + averages * plain)


def least_bytes_of_an_image(sketch: TrainingModel) -> int:
    """What the backward pass needs of an image at the least: the inputs of blocks, in half precision."""
    backbone = sketch.backbone
    tokens = sum(sum(view.tokens[: backbone.wide_blocks]) for view in sketch.plan.views)
    return HALF * tokens * backbone.hidden_size


def memory_of(device: torch.device) -> int:
    """Bytes: of a GPU all that it has, on a CPU what is free now."""
    if device.type == "cuda":
        return torch.cuda.get_device_properties(device).total_memory
    facts = Path("/proc/meminfo")
    lines = facts.read_text().splitlines() if facts.exists() else []
    free = [int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:")]
    return free[0] if free else 2**63
