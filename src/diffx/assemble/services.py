"""Teachers: what plugins need beside the batch, each built once and shared by name."""

from collections.abc import Callable
from typing import TYPE_CHECKING, cast

import torch
from torch import Tensor

from diffx.assemble.model import TrainingModel, encoder_names
from diffx.data import Data
from diffx.frozen.encoder import encoder_spec
from diffx.frozen.vision import VisionEncoder

if TYPE_CHECKING:
    from diffx.data import Data, LabelledReference


def make_encoder(name: str, data: "Data | None", side: int, device: torch.device | str) -> Callable[[Tensor], Tensor]:
    """Encoder `name` for a backbone of side² tokens: uint8 images (B, C, H, W) to float32 (B, side², dim) on `device`.

    "embedded" is the small one that diffx trains from `data`; all others come from timm (docs/prepare.md lists their
    preprocessing). Frozen, in eval mode, without gradients.

    Raises:
        DiffxError: unknown, or its weights are nowhere to be found.
    """
    spec = encoder_spec(name)
    if spec.model is not None:
        return VisionEncoder(name, spec.model, side, torch.device(device))
    from diffx.embedded.networks import encoder as embedded_encoder

    network = embedded_encoder(cast("LabelledReference", data)).to(device)

    @torch.no_grad()
    def encode(image: Tensor) -> Tensor:
        return network(image.to(device), side)

    return encode


Service = Callable[[Tensor], Tensor]


def make_services(model: TrainingModel, data: Data, device: torch.device) -> dict[str, Service]:
    """A teacher for each need that the data does not meet itself."""
    left = data.provide(model.plan.needs, model.backbone.side)
    return {f"features/{n}": make_encoder(n, data, model.backbone.side, device) for n in encoder_names(left)}
