"""All that a run is made of, built and checked against each other before anything is written."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from diffx.assemble.flops import Flops, count_flops, flops_of
from diffx.assemble.model import TrainingModel, build_model
from diffx.assemble.services import Service, Surroundings, make_services
from diffx.config.protocol import protocol
from diffx.config.settings import Settings
from diffx.config.target import make
from diffx.data import Data
from diffx.errors import DiffxError
from diffx.processes.devices import cost_unit, pick_device


class Metrics(Protocol):
    """What an evaluation asks of its metrics: called with batches of uint8 samples, values by name over all ranks."""

    identity: str
    networks: Iterable[dict[str, str]]

    def __call__(self, batches: Iterable[Tensor]) -> dict[str, float]: ...
    def floor(self, count: int) -> dict[str, float]: ...


@dataclass(frozen=True)
class Parts:
    """The model, its data, teachers and metrics, what a step costs and under which protocol it is measured."""

    model: TrainingModel
    data: Data
    metrics: Metrics
    services: dict[str, Service]
    flops: Flops
    device: torch.device
    protocol: dict[str, Any]


def assemble(settings: Settings) -> Parts:
    """Build every part of a run, each of which may refuse with a DiffxError."""
    model = build_model(settings)
    device = pick_device(settings.trainer.accelerator)
    _check_budget_unit(settings, cost_unit(device))
    if settings.trainer.precision == "16-mixed" and device.type == "cpu":
        raise DiffxError("trainer.precision=16-mixed is for GPUs; type trainer.precision=bf16-mixed or 32-true.")
    data: Data = make(settings.data.source)
    _check_shape(settings, model, data)
    around = Surroundings(model.backbone, settings.data.image_size, data, device)
    services = make_services(model.plan.needs, around)
    teachers = _teacher_flops(services, data)
    data.decode(torch.zeros(1, *data.shape))  # a decoder without weights must refuse now, not at the first evaluation
    metrics: Metrics = make(settings.eval.metrics, data=data, device=device)
    flops = count_flops(model.backbone, model.plugins, model.objective, model.plan, teachers)
    return Parts(model, data, metrics, services, flops, device, protocol(settings, data.identity, metrics.identity))


def _teacher_flops(services: dict[str, Service], data: Data) -> dict[str, int]:
    """Of one image through each teacher that takes one."""
    seeing = {name: s for name, s in services.items() if getattr(s, "takes", ("image",)) == ("image",)}
    if not seeing:
        return {}
    image = data.batch(torch.zeros(1, dtype=torch.long))["image"]
    return {name: flops_of(service, image) for name, service in seeing.items()}


def _check_shape(settings: Settings, model: TrainingModel, data: Data) -> None:
    backbone = model.backbone
    if tuple(data.shape) != backbone.shape:
        raise DiffxError(
            f"data={settings.data.name} has samples of shape {data.shape} and the backbone takes {backbone.shape}; "
            f"type data.channels={data.shape[0]} data.size={data.shape[1]}."
        )
    if data.num_classes > backbone.num_classes:
        raise DiffxError(
            f"data={settings.data.name} has {data.num_classes} classes and the backbone {backbone.num_classes}; "
            f"type data.num_classes={data.num_classes}."
        )


def _check_budget_unit(settings: Settings, unit: str) -> None:
    if settings.budget and list(settings.budget.hours) != [unit]:
        raise DiffxError(
            f"budget is given in {', '.join(settings.budget.hours)}, but this device is metered in {unit}; "
            f"type budget.{unit}= instead."
        )
