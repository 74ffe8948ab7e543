"""scikit-learn's 1,797 handwritten digits: real images that come with the installation."""

from collections.abc import Iterable

import numpy as np
import torch
import torch.nn.functional as F
from sklearn.datasets import load_digits
from torch import Tensor

from diffx.errors import DiffxError
from diffx.pixels.values import signed, to_uint8
from diffx.store.digest import digest

SIZES = (8, 16, 32)
HELD_OUT_PER_CLASS = 50


class Digits:
    """Grey handwritten digits, 8×8 pixels resized bilinearly; 1,297 training and 500 held-out images in 10 classes.

    The split takes 50 images of each class at even distances in scikit-learn's order, which is by writer: every writer
    is on both sides, and no random number generator has to stay the same for the split to.

    Args:
        size: edge of the images in pixels: 8 (as scanned), 16 or 32.

    Raises:
        DiffxError: another size.
    """

    name = "digits"
    num_classes = 10

    def __init__(self, size: int = 16) -> None:
        if size not in SIZES:
            raise DiffxError(f"data.size={size}: digits come in 8, 16 or 32 pixels. Type data.size=16.")
        self.shape = (1, size, size)
        self.identity = digest({"name": self.name, "version": 1, "size": size})
        scans = load_digits()
        images = _resize(torch.from_numpy(scans.images), size)
        labels = torch.from_numpy(scans.target).long()
        held_out = _evenly_spaced_per_class(labels, HELD_OUT_PER_CLASS)
        self._images, self._labels = images[~held_out], labels[~held_out]
        self._reference, self._reference_labels = images[held_out], labels[held_out]

    def __len__(self) -> int:
        return len(self._images)

    def batch(self, indices: Tensor) -> dict[str, Tensor]:
        """Training images: "x" float32 (B, 1, H, W) in [-1, 1], "y" int64 (B,), "image" uint8 (B, 1, H, W)."""
        images = self._images[indices]
        return {"x": signed(images), "y": self._labels[indices], "image": images}

    def provide(self, needs: Iterable[str], side: int) -> list[str]:
        """Every batch has its images; all other needs are left."""
        return [need for need in needs if need != "image"]

    def reference(self) -> Tensor:
        """The 500 held-out images, uint8 (500, 1, H, W)."""
        return self._reference

    def reference_labels(self) -> Tensor:
        """Classes of the held-out images, int64 (500,)."""
        return self._reference_labels

    def decode(self, x: Tensor, rounding: str = "nearest") -> Tensor:
        """Values in [-1, 1] to uint8."""
        return to_uint8(x, rounding)


def _resize(scans: Tensor, size: int) -> Tensor:
    """Scans (N, 8, 8) with ink from 0 to 16, to uint8 (N, 1, size, size)."""
    images = F.interpolate(scans[:, None] * (255 / 16), size=(size, size), mode="bilinear", align_corners=False)
    return images.round().to(torch.uint8)


def _evenly_spaced_per_class(labels: Tensor, count: int) -> Tensor:
    """Boolean (N,): true for `count` images of each class, spread evenly over its images."""
    chosen = torch.zeros(len(labels), dtype=torch.bool)
    for label in labels.unique():
        members = (labels == label).nonzero().flatten()
        places = (np.arange(count) + 0.5) * len(members) / count
        chosen[members[torch.from_numpy(places.astype(np.int64))]] = True
    return chosen
