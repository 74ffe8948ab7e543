"""A latent space without images: enough to sample a network that was trained elsewhere."""

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, NoReturn

import torch
from torch import Tensor

from diffx.errors import DiffxError
from diffx.pixels.values import to_uint8
from diffx.store.digest import digest

if TYPE_CHECKING:
    from diffx.frozen.autoencoder import Autoencoder


class LatentSpace:
    """What an autoencoder decodes, and no data: nothing can be trained on it, and it is no reference.

    Args:
        decoder: the autoencoder (name or folder), which also says how latents are scaled.
        shape: (C, H, W) of x. num_classes: of the labels. name: in protocols.
    """

    def __init__(self, decoder: str, shape: Iterable[int], num_classes: int, name: str = "latent space") -> None:
        channels, height, width = shape
        self.name, self.shape, self.num_classes = name, (channels, height, width), num_classes
        self.decoder, self.identity = decoder, digest({"decoder": decoder})
        self._autoencoder: Autoencoder | None = None

    def __len__(self) -> int:
        return 0

    def batch(self, indices: Tensor) -> dict[str, Tensor]:
        self._refuse()

    def provide(self, needs: Iterable[str], side: int) -> list[str]:
        return list(needs)

    def reference(self) -> Tensor:
        self._refuse()

    def decode(self, x: Tensor, rounding: str = "nearest") -> Tensor:
        """Scaled latents (B, C, H, W) to uint8 images (B, 3, R, R), on x's device. rounding: see to_uint8.

        Raises:
            DiffxError: the autoencoder's weights cannot be found, or it has other channels.
        """
        if self._autoencoder is None:
            self._autoencoder = self._load()
        autoencoder = self._autoencoder.to(x.device)
        scale, shift = (torch.tensor(v, device=x.device).view(-1, 1, 1) for v in (autoencoder.scale, autoencoder.shift))
        return to_uint8(autoencoder.decode(x.float() / scale + shift), rounding)

    def _load(self) -> "Autoencoder":
        from diffx.frozen.autoencoder import load_autoencoder

        autoencoder = load_autoencoder(self.decoder)
        if autoencoder.network.channels != self.shape[0]:
            raise DiffxError(
                f"The autoencoder {self.decoder} decodes latents of {autoencoder.network.channels} channels, and this "
                f"network makes some of {self.shape[0]}; type --decoder and the one that it was trained with."
            )
        return autoencoder

    def _refuse(self) -> NoReturn:
        raise DiffxError(
            f"{self.name} has no images, and these metrics ask for some; type --data and a data set that is prepared, "
            "or a protocol with a reference of its own."
        )

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_autoencoder": None}
