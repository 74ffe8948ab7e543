"""What a run asks of a cluster, counted from its settings on meta."""

import math
from dataclasses import dataclass

import torch

from diffx.assemble.flops import count_flops, flops_of
from diffx.assemble.model import build_model
from diffx.assemble.ready import averages_of, bytes_of_training
from diffx.assemble.services import encoder_names
from diffx.config.settings import Settings
from diffx.frozen.encoder import encoder_spec
from diffx.frozen.vision import untrained

GRADIENT = 4  # bytes of a gradient, which is summed in float32
PIXEL, MOMENTS = 1, 4  # bytes of a stored image's channel; of a latent's, whose mean and deviation are float16


@dataclass(frozen=True)
class Work:
    """batch: images of a step. flops: of an image, forward and backward, teachers included. parameters: trained ones.
    held: bytes of their weights, gradients, moments and averages. sample_bytes: of an image as training reads it.
    sharded: FSDP2, else DDP. minutes, share: between checkpoints at least, and of training's time that saving may take.
    """

    name: str
    batch: int
    steps: int
    flops: float
    parameters: int
    held: int
    blocks: int
    sample_bytes: int
    sharded: bool
    minutes: float
    share: float

    @property
    def saved(self) -> int:
        """Bytes of a checkpoint: all that is held but the gradients."""
        return self.held - GRADIENT * self.parameters


def work_of(settings: Settings) -> Work:
    """Count what a run asks for; needs no data and no weights."""
    model = build_model(settings, "meta")
    names = encoder_names(model.plan.needs)
    side, edge = model.backbone.side, settings.data.image_size
    needed = {name: next(need for need in model.plan.needs if need.endswith(f"/{name}")) for name in names}
    teachers = {need: encoder_flops(name, side) for name, need in needed.items()}
    flops = count_flops(model.backbone, model.plugins, model.objective, model.plan, teachers)
    modules = [model.backbone, *model.plugins.values()]
    stored = math.prod(model.backbone.shape) * (MOMENTS if model.backbone.shape[0] > 3 else PIXEL)
    return Work(
        name=f"{settings.experiment} ({settings.label})",
        batch=settings.batch_size,
        steps=settings.max_steps,
        flops=flops.train,
        parameters=sum(p.numel() for module in modules for p in module.parameters() if p.requires_grad),
        held=bytes_of_training(model.backbone, model.plugins, averages_of(settings)),
        blocks=len(model.backbone.blocks),
        sample_bytes=stored + (3 * edge * edge * PIXEL if names else 0),
        sharded=settings.trainer.strategy == "fsdp",
        minutes=settings.checkpoint_minutes,
        share=settings.checkpoint_share,
    )


def encoder_flops(name: str, side: int) -> int:
    """Of one image through encoder `name` on a grid of side² tokens; of the embedded one, which is small, none."""
    model = encoder_spec(name).model
    if model is None:
        return 0
    with torch.device("meta"):
        edge = model.patch * side
        return flops_of(untrained(model, side).forward_features, torch.zeros(1, 3, edge, edge))
