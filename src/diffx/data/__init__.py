"""Data sets: what the training step asks of one, and the two that need no download."""

from collections.abc import Iterable
from typing import Protocol

from torch import Tensor

from diffx.data.batches import StepBatches
from diffx.data.digits import Digits
from diffx.data.latents import Latents
from diffx.data.shapes import Shapes
from diffx.data.space import LatentSpace

__all__ = ["Data", "Digits", "LabelledReference", "LatentSpace", "Latents", "Shapes", "StepBatches"]


class Data(Protocol):
    """A data set in memory or on disk, addressed by index."""

    name: str
    shape: tuple[int, int, int]
    """(C, H, W) of x."""
    num_classes: int
    """0 where captions condition the images: such data has an attribute `text`, the shape of what batch() gives as "y".
    """
    identity: str
    """Short hash of everything that determines the images; part of protocols and cache keys."""

    def __len__(self) -> int:
        """Number of training images."""

    def batch(self, indices: Tensor) -> dict[str, Tensor]:
        """Training images: "x" float32 (B, C, H, W), "y" int64 (B,) or Text, "image" uint8 (B, 1 or 3, H, W)."""

    def provide(self, needs: Iterable[str], side: int) -> list[str]:
        """Make batch() carry what of `needs` is at hand ("image", "features/NAME" as side² tokens); return the rest."""

    def reference(self) -> Tensor:
        """Held-out images, uint8 (M, C, H, W): a fixed split that nothing is trained on."""

    def decode(self, x: Tensor, rounding: str = "nearest") -> Tensor:
        """Samples x (B, C, H, W) to uint8 images (B, 1 or 3, H, W). rounding: as in diffx.pixels.values.to_uint8."""


class LabelledReference(Data, Protocol):
    """Data whose held-out images have labels, so that the accuracy of a small network can be measured."""

    def reference_labels(self) -> Tensor:
        """int64 (M,), in the order of reference()."""
