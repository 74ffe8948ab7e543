"""All that a run is made of, built and checked against each other before anything is written."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor
from torchmetrics import Metric

from diffx import ranks
from diffx.assemble.attention import attention_kernels
from diffx.assemble.end_to_end import make_end_to_end, with_end_to_end
from diffx.assemble.flops import Flops, count_flops, flops_of
from diffx.assemble.model import TrainingModel, build_model
from diffx.assemble.ready import look
from diffx.assemble.services import Service, Surroundings, make_services
from diffx.config.protocol import protocol
from diffx.config.settings import Settings
from diffx.config.target import make
from diffx.data import Data
from diffx.data.prompts import prompts_digest, prompts_of
from diffx.end_to_end import EndToEnd


class Metrics(Protocol):
    """What an evaluation asks of its metrics: called with batches of uint8 samples, values by name over all ranks."""

    identity: str
    networks: Iterable[dict[str, str]]
    metrics: Mapping[str, Metric]
    """By name, without a number of samples; each knows whether higher is better."""

    def __call__(self, batches: Iterable[Tensor]) -> dict[str, float]: ...
    def floor(self, count: int) -> dict[str, float]: ...


@dataclass(frozen=True)
class Parts:
    """The model, its data, teachers and metrics, what a step costs, which kernels attention takes, the protocol under
    which it is measured, and the autoencoder, where it is trained too."""

    model: TrainingModel
    data: Data
    metrics: Metrics
    services: dict[str, Service]
    flops: Flops
    attention: list[str]
    device: torch.device
    protocol: dict[str, Any]
    end_to_end: EndToEnd | None = None


def assemble(settings: Settings) -> Parts:
    """Build every part of a run, each of which may refuse with a DiffxError; what can be looked for first, is."""
    sketch, data, device = look(settings)
    model = build_model(settings)
    around = Surroundings(model.backbone, settings.data.image_size, data, device)
    services = make_services(model.plan.needs, around)
    teachers = _teacher_flops(services, data)
    metrics: Metrics = make(settings.eval.metrics, data=data, device=device)
    flops = count_flops(sketch.backbone, sketch.plugins, sketch.objective, sketch.plan, teachers)
    batch = settings.batch_size // (ranks.world() * settings.trainer.accumulate)
    kernels = attention_kernels(sketch.backbone, batch, settings.trainer.precision, device)
    measured = protocol(settings, data.identity, metrics.identity, prompts_digest(prompts_of(data)))
    if end_to_end := make_end_to_end(settings, model, data):
        flops = with_end_to_end(flops, end_to_end, model, settings.data.image_size)
    return Parts(model, data, metrics, services, flops, kernels, device, measured, end_to_end)


def _teacher_flops(services: dict[str, Service], data: Data) -> dict[str, int]:
    """Of one sample through each teacher that is called with something of the batch."""
    takes = {name: getattr(service, "takes", ("image",)) for name, service in services.items()}
    if not any(takes.values()):
        return {}
    row = data.batch(torch.zeros(1, dtype=torch.long))
    return {name: flops_of(services[name], *(row[key] for key in keys)) for name, keys in takes.items() if keys}
