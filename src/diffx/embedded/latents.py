"""The shapes as latents of their small autoencoder: training, decoding and their cost as on ImageNet, on a laptop."""

from collections.abc import Iterable
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from diffx.data import Shapes
from diffx.embedded import networks
from diffx.embedded.architecture import SmallAutoencoder
from diffx.errors import DiffxError
from diffx.frozen.autoencoder import Autoencoder
from diffx.pixels.values import signed, to_uint8
from diffx.store import cache
from diffx.store.digest import digest

ENCODED_AT_ONCE = 500


class ShapesLatent:
    """Latents of the shapes. As with prepared latents x is the scaled mean of the posterior and "x_std" its scaled
    standard deviation, from which a step draws; every batch has its images too.

    They are made at the first use, 20,000 in some ten seconds of a core, and kept in the cache folder.

    Args:
        count: number of training images, the first of the 50,000 shapes of this seed and size.
        seed, size: of the images (Shapes).

    Attributes:
        images: all of these shapes, from which autoencoder, encoders and metrics are made.

    Raises:
        DiffxError: more images than there are, or what Shapes refuses.
    """

    name = "shapes_latent"
    decoder = "embedded"

    def __init__(self, count: int = 20_000, seed: int = 0, size: int = 32) -> None:
        self.images = Shapes(seed=seed, size=size)
        if not 1 <= count <= len(self.images):
            raise DiffxError(
                f"data.source.count={count}: shapes_latent has from 1 to {len(self.images)} images; type "
                "data.source.count=20000."
            )
        self.count, self.num_classes = count, self.images.num_classes
        side = size // SmallAutoencoder.stride
        self.shape = (SmallAutoencoder.channels, side, side)
        made_by = networks.facts(networks.AUTOENCODER, self.images)
        self._facts = {"images": self.images.identity, "count": count, "autoencoder": made_by}
        self.identity = digest(self._facts)

    def __len__(self) -> int:
        return self.count

    def batch(self, indices: Tensor) -> dict[str, Tensor]:
        """Latents "x" and "x_std" float32 (B, 4, H/4, W/4), "y" int64 (B,), "image" uint8 (B, 3, H, W)."""
        mean, std = torch.from_numpy(self._moments()[indices.numpy()]).float().chunk(2, dim=1)
        batch = self.images.batch(indices)
        return batch | {"x": (mean - self._shift) * self._scale, "x_std": std * self._scale}

    def provide(self, needs: Iterable[str], side: int) -> list[str]:
        """Every batch has its images; all other needs are left."""
        return self.images.provide(needs, side)

    def reference(self) -> Tensor:
        """The held-out images, uint8 (10000, 3, H, W)."""
        return self.images.reference()

    def reference_labels(self) -> Tensor:
        """int64 (10000,)."""
        return self.images.reference_labels()

    def decode(self, x: Tensor, rounding: str = "nearest") -> Tensor:
        """Scaled latents (B, 4, H/4, W/4) to uint8 images (B, 3, H, W), on x's device."""
        return to_uint8(self._autoencoder.to(x.device).decode(self._raw(x)), rounding)

    def autoencoder_features(self, x: Tensor) -> Tensor:
        """What the first half of the decoder makes of scaled latents: (B, 48, H/4, W/4)."""
        return self._autoencoder.to(x.device).features(self._raw(x))

    def latent_space(self) -> Autoencoder:
        """The autoencoder that makes the latents."""
        return self._autoencoder

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name != "_autoencoder"}

    @cached_property
    def _autoencoder(self) -> Autoencoder:
        network = networks.autoencoder(self.images)
        return Autoencoder(self.decoder, network, (network.shift.tolist(), network.scale.tolist()))

    @cached_property
    def _shift(self) -> Tensor:
        return torch.tensor(self._autoencoder.shift).view(-1, 1, 1)

    @cached_property
    def _scale(self) -> Tensor:
        return torch.tensor(self._autoencoder.scale).view(-1, 1, 1)

    def _raw(self, x: Tensor) -> Tensor:
        return x.float() / self._scale.to(x.device) + self._shift.to(x.device)

    @cached_property
    def _path(self) -> Path:
        """Of the latents, made first if need be."""
        path = cache.home() / "data" / f"{self.name}-{self.identity}.npy"
        cache.entry(path, self._facts, self._write)
        return path

    def _moments(self) -> NDArray[np.float16]:
        # Opened anew each time, as the shapes are.
        return np.load(self._path, mmap_mode="r", allow_pickle=False)

    def _write(self, path: Path) -> dict[str, Any]:
        channels, side, _ = self.shape
        rows = np.lib.format.open_memmap(path, mode="w+", dtype=np.float16, shape=(len(self), 2 * channels, side, side))
        network = self._autoencoder.to("cpu").network
        with torch.no_grad():
            for part in torch.arange(len(self)).split(ENCODED_AT_ONCE):
                rows[part.numpy()] = network.encode(signed(self.images.batch(part)["image"])).numpy()
        rows.flush()
        psnr = networks.reconstruction(network, self.images)
        print(f"{self.name}: {len(self)} images encoded; held-out ones are decoded at {psnr:.1f} dB (PSNR)", flush=True)
        return {"psnr": psnr}
