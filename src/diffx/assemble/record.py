"""run.json: what a comparison has to know about a run."""

import platform
from pathlib import Path
from typing import Any

import torch
from torch import nn

from diffx import ranks
from diffx.assemble.parts import Parts
from diffx.assemble.services import encoder_names
from diffx.config.settings import Settings
from diffx.data.prompts import prompts_of
from diffx.data.stream import stream_of
from diffx.frozen.encoder import encoder_spec
from diffx.processes.devices import cost_unit
from diffx.run.name import short_hash
from diffx.run.origin import git_state, versions

LISTED = 20  # of the prompts, the first: those of the pictures that a comparison shows


def describe_run(settings: Settings, parts: Parts) -> dict[str, Any]:
    """The facts of a run at its start; how it ended is added at its end."""
    model, flops = parts.model, parts.flops
    names = list(model.plugins)
    return {
        "id": settings.id,
        "experiment": settings.group,
        "seed": settings.seed,
        "label": settings.label,
        "plugins": names,
        "parameters": {
            "backbone": _count(model.backbone),
            "training_only": sum(_count(plugin) for plugin in model.plugins.values()),
            **({"end_to_end": _count(parts.end_to_end)} if parts.end_to_end else {}),
        },
        "flops": {
            "forward_per_image": flops.forward,
            "train_per_image": flops.train,
            "relative_forward": flops.relative,
        },
        "device": {
            "kind": parts.device.type,
            "name": _device_name(parts.device),
            "count": ranks.world(),
        },
        "training_images": len(parts.data),
        "precision": settings.trainer.precision,
        "compile": settings.compile,
        "attention": parts.attention,
        "cost": cost_unit(parts.device),
        "protocol": parts.protocol,
        "protocol_hash": short_hash(parts.protocol),
        "versions": versions(),
        "git": git_state(),
        "encoders": _encoders(parts),
        "feature_networks": list(parts.metrics.networks),
        "higher_is_better": [n for n, metric in parts.metrics.metrics.items() if metric.higher_is_better],
        "offline": _offline(parts),
        "streamed_from": _streamed_from(parts),
        **({"prompts": prompts[:LISTED]} if (prompts := prompts_of(parts.data)) else {}),
        "reference": {"floor": parts.metrics.floor(settings.eval.samples)},
        "status": "running",
    }


def _encoders(parts: Parts) -> list[dict[str, str]]:
    """The frozen encoders that teach, and those that taught its teachers, each once."""
    own = [_kin(name) for name in encoder_names(parts.model.plan.needs)]
    found = [*own, *(one for service in parts.services.values() for one in getattr(service, "encoders", ()))]
    return [one for place, one in enumerate(found) if one not in found[:place]]


def _offline(parts: Parts) -> dict[str, dict[str, float]]:
    """By need, the hours by unit that were spent before this run: on caches, and on teachers that say so."""
    teachers = {need: service.offline for need, service in parts.services.items() if hasattr(service, "offline")}
    return {**getattr(parts.data, "offline", {}), **teachers}


def _streamed_from(parts: Parts) -> str | None:
    """The URL of the data, which holds no secrets; None where they are here."""
    stream = stream_of(parts.data)
    return stream.source if stream and stream.is_remote else None


def _kin(name: str) -> dict[str, str]:
    spec = encoder_spec(name)
    return {"name": name, "family": spec.family, "training": spec.training}


def _count(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def _device_name(device: torch.device) -> str:
    """The GPU's name, or the processor's model."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    facts = Path("/proc/cpuinfo")
    lines = facts.read_text().splitlines() if facts.exists() else []
    models = [line.split(":")[1].strip() for line in lines if line.startswith("model name")]
    return models[0] if models else platform.processor() or platform.machine()
