"""Procedural images of ten shapes, in which what is drawn and how it looks are separate factors."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from diffx.data.drawing import OUTLINES, UNIFORMS, draw
from diffx.errors import DiffxError
from diffx.pixels.values import signed, to_uint8
from diffx.store import cache
from diffx.store.digest import digest

VERSION = 1  # of the drawing: a change makes all cached images anew
REFERENCE_COUNT = 10_000
TRAIN, REFERENCE = 0, 1  # streams of random numbers
DRAWN_AT_ONCE = 200


class Shapes:
    """RGB images of one shape each, with random pose, scale, hue, texture, background and softness of the edge.

    Image i is of class i mod 10 and depends on (seed, i) alone, so a larger set begins with the smaller one. The images
    are made at the first use, 50,000 in a few seconds, and kept in the cache folder.

    Args:
        count: number of training images.
        seed: of the random numbers; the 10,000 held-out images come from another stream of the same seed.
        size: edge of the images in pixels, from 8 to 256 and divisible by 4, as the embedded networks take them.

    Raises:
        DiffxError: a count, seed or size that cannot be.
    """

    name = "shapes"
    num_classes = len(OUTLINES)

    def __init__(self, count: int = 50_000, seed: int = 0, size: int = 32) -> None:
        if count < 1:
            raise DiffxError(f"data.count={count}: at least one image is needed. Type data.count=50000.")
        if seed < 0:
            raise DiffxError(f"data.seed={seed} is negative. Type data.seed=0.")
        if not 8 <= size <= 256 or size % 4:
            raise DiffxError(f"data.size={size}: shapes are drawn in 8, 12, 16, ... 256 pixels. Type data.size=32.")
        self.count, self.seed, self.size = count, seed, size
        self.shape = (3, size, size)
        self.identity = digest(self._facts(TRAIN, count))
        self._paths: dict[int, Path] = {}

    def __len__(self) -> int:
        return self.count

    def batch(self, indices: Tensor) -> dict[str, Tensor]:
        """Training images: "x" float32 (B, 3, H, W) in [-1, 1], "y" int64 (B,), "image" uint8 (B, 3, H, W)."""
        images = torch.from_numpy(self._images(TRAIN, self.count)[indices.numpy()])
        return {"x": signed(images), "y": indices % self.num_classes, "image": images}

    def provide(self, needs: Iterable[str], side: int) -> list[str]:
        """Every batch has its images; all other needs are left."""
        return [need for need in needs if need != "image"]

    def reference(self) -> Tensor:
        """The held-out images, uint8 (10000, 3, H, W)."""
        return torch.from_numpy(np.array(self._images(REFERENCE, REFERENCE_COUNT)))

    def reference_labels(self) -> Tensor:
        """Classes of the held-out images, int64 (10000,)."""
        return torch.arange(REFERENCE_COUNT) % self.num_classes

    def decode(self, x: Tensor, rounding: str = "nearest") -> Tensor:
        """Values in [-1, 1] to uint8."""
        return to_uint8(x, rounding)

    def _facts(self, stream: int, count: int) -> dict[str, Any]:
        facts = {"name": self.name, "version": VERSION, "stream": stream, "seed": self.seed}
        return facts | {"shape": [count, *self.shape], "dtype": "uint8"}

    def _images(self, stream: int, count: int) -> NDArray[np.uint8]:
        if stream not in self._paths:
            facts = self._facts(stream, count)
            path = cache.home() / "data" / f"shapes-{digest(facts)}.npy"
            cache.entry(path, facts, lambda fresh: self._write(fresh, stream, count))
            self._paths[stream] = path
        # Opened anew each time (0.1 ms): an open memory map would be copied into every worker that is spawned.
        return np.load(self._paths[stream], mmap_mode="r", allow_pickle=False)

    def _write(self, path: Path, stream: int, count: int) -> dict[str, Any]:
        images = np.lib.format.open_memmap(path, mode="w+", dtype=np.uint8, shape=(count, *self.shape))
        for start in range(0, count, DRAWN_AT_ONCE):
            stop = min(start + DRAWN_AT_ONCE, count)
            labels = np.arange(start, stop) % self.num_classes
            images[start:stop] = draw(labels, self._uniforms(stream, start, stop), self.size)
        images.flush()
        return {}

    def _uniforms(self, stream: int, start: int, stop: int) -> NDArray[np.float32]:
        """Rows [start, stop) of an endless table of numbers in [0, 1)."""
        bits = np.random.Philox(key=np.array([self.seed, stream], dtype=np.uint64))
        raw = bits.advance(start * UNIFORMS // 4).random_raw((stop - start) * UNIFORMS)
        return (raw >> np.uint64(40)).astype(np.float32).reshape(-1, UNIFORMS) / np.float32(1 << 24)
