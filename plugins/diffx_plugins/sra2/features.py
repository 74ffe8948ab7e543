"""The service autoencoder/WIDTH: features of the latents' own autoencoder, so many channels wide."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from diffx.assemble.services import Surroundings
from diffx.backbone import Backbone
from diffx.errors import DiffxError


class AutoencoderFeatures:
    """Latents x (B, C, H, W), the mean of the posterior -> tokens (B, side², width), pooled over a token's patch."""

    takes = ("x",)

    def __init__(self, data: Any, side: int, device: torch.device) -> None:
        self._data, self._side, self._device = data, side, device

    @torch.no_grad()
    def __call__(self, x: Tensor) -> Tensor:
        features = self._data.autoencoder_features(x.to(self._device))
        return F.adaptive_avg_pool2d(features, self._side).flatten(2).mT


class StandIn:
    """Zeros of the right shape."""

    takes = ("x",)

    def __init__(self, tokens: int, width: int) -> None:
        self._shape = (tokens, width)

    def __call__(self, x: Tensor) -> Tensor:
        return torch.zeros(len(x), *self._shape)


class AutoencoderProvider:
    """Provides autoencoder/WIDTH where the data is an autoencoder's latents."""

    def check(self, name: str, around: Surroundings) -> None:
        if around.backbone.shape[-1] >= around.image_size:
            raise DiffxError(
                "plugins.sra2 aligns with the autoencoder whose latents the data is, and this data is pixels; type "
                "data=imagenet256, or any other of latents."
            )

    def stand_in(self, name: str, backbone: Backbone) -> StandIn:
        return StandIn(backbone.grid_tokens, int(name))

    def find(self, name: str) -> None:
        """The autoencoder decodes samples too, and is looked for there."""

    def make(self, name: str, around: Surroundings) -> AutoencoderFeatures:
        if not hasattr(around.data, "autoencoder_features"):
            raise DiffxError(
                f"plugins.sra2 takes features from the data's autoencoder, and a {type(around.data).__name__} has "
                "none; type data=imagenet256, or any other of latents."
            )
        service = AutoencoderFeatures(around.data, around.backbone.side, around.device)
        found = service(torch.zeros(1, *around.backbone.shape)).shape[-1]
        if found != int(name):
            raise DiffxError(
                f"plugins.sra2.width={name}, and this autoencoder's middle has {found} channels; type "
                f"plugins.sra2.width={found}."
            )
        return service
