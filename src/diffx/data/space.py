"""A latent space without images: enough to sample a network that was trained elsewhere."""

from collections.abc import Iterable, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import torch
from torch import Tensor

from diffx.backbone import Text, TextShape
from diffx.data.prompts import Prompt, read_prompts
from diffx.errors import DiffxError
from diffx.pixels.values import to_uint8
from diffx.store.digest import digest

if TYPE_CHECKING:
    from diffx.frozen.autoencoder import Autoencoder


class LatentSpace:
    """What an autoencoder decodes, and no data: nothing can be trained on it, and it is no reference.

    Args:
        decoder: the autoencoder (name or folder), which also says how latents are scaled.
        shape: (C, H, W) of x. num_classes: of the labels; 0 where text conditions. name: in protocols.
        text: (L, C, P) of what the network reads. encoders: folders of those that read prompts for it. length: tokens
            of a prompt, as of `prepare text`. prompts: a file of those that samples are drawn for.
    """

    def __init__(
        self,
        decoder: str,
        shape: Iterable[int],
        num_classes: int,
        name: str = "latent space",
        text: Iterable[int] | None = None,
        encoders: Sequence[str] = (),
        length: int | None = None,
        prompts: str | None = None,
    ) -> None:
        channels, height, width = shape
        self.name, self.shape, self.num_classes = name, (channels, height, width), num_classes
        self.text = None if text is None else TextShape(*text)
        self._encoders, self._length = list(encoders), length
        self.prompts: list[Prompt] = read_prompts(Path(prompts)) if prompts else []
        self.decoder, self.identity = decoder, digest({"decoder": decoder} | self.encoded_by())
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

    def encoded_by(self) -> dict[str, Any]:
        """What determines how prompts are read; nothing where classes condition."""
        if not self._encoders:
            return {}
        from diffx.frozen.text.encoder import weights_of

        weights = [weights_of(Path(folder).expanduser()) for folder in self._encoders]
        return {"encoders": weights, "length": self._length}

    def encode(self, prompts: Sequence[str]) -> Text:
        """Prompts as the network reads them.

        Raises:
            DiffxError: an encoder cannot be read, they are of other widths than the network's text, or take fewer
                tokens than a prompt has.
        """
        return self._encoder(prompts)

    @cached_property
    def _encoder(self) -> Any:
        from diffx.frozen.text import open_text_encoders

        encoder = open_text_encoders(self._encoders, self._length)
        assert self.text is not None
        wanted, found = self.text, encoder.shape
        if not found.suits(wanted):
            raise DiffxError(
                f"{self.name} reads tokens of {wanted.channels} channels and a pooled vector of {wanted.pooled}, and "
                f"{', '.join(self._encoders)} make {found.channels} and {found.pooled}; type --encoder once for each "
                "of the encoders that it was trained with."
            )
        return encoder

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
        return {key: value for key, value in self.__dict__.items() if key != "_encoder"} | {"_autoencoder": None}
