"""The captions' data: pictures of scenes, each with its encoded caption, and the prompts that a run is measured by."""

from collections.abc import Iterable, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from diffx.backbone import Text
from diffx.data.captions import Pictures
from diffx.data.prompts import Prompt, read_prompts
from diffx.data.text_rows import row_of, text_of
from diffx.embedded.captions import text_encoder
from diffx.embedded.captions.text_encoder import SHAPE, TextEncoder
from diffx.errors import DiffxError
from diffx.store import cache
from diffx.store.digest import digest


class Captions:
    """Pictures of scenes with captions of them, encoded by the small text encoder.

    Pictures and encoded captions are made at the first use and kept in the cache folder, so that a step reads them.

    Args:
        count: number of training pictures, the first of the 20,000 of this seed and size.
        seed, size: of the pictures (diffx.data.captions.Pictures).
        prompts: a file of prompts (docs/text.md) that samples are drawn for when a run is measured; None: captions of
            held-out pictures, a quarter of them with compositions that no training picture has.

    Attributes:
        images: all of these pictures, from which encoders and metrics are made.
        text: the shape of an encoded caption. prompts: those that a run is measured by, in order.

    Raises:
        DiffxError: more pictures than there are, what Pictures refuses, or prompts that cannot be read or encoded.
    """

    name = "captions"
    num_classes = 0
    text = SHAPE

    def __init__(self, count: int = 20_000, seed: int = 0, size: int = 32, prompts: str | None = None) -> None:
        self.images = Pictures(seed, size)
        if not 1 <= count <= len(self.images):
            raise DiffxError(
                f"data.source.count={count}: captions has from 1 to {len(self.images)} pictures; type "
                "data.source.count=20000."
            )
        self.count, self.shape = count, self.images.shape
        self._facts = {
            "images": self.images.identity,
            "count": count,
            "encoder": text_encoder.facts(self.images),
        }
        self.identity = digest(self._facts)
        self.prompts = read_prompts(Path(prompts)) if prompts else [Prompt(words) for words in self.images.prompts()]

    def __len__(self) -> int:
        return self.count

    def batch(self, indices: Tensor) -> dict[str, Any]:
        """Training pictures: "x" float32 (B, 3, H, W) in [-1, 1], "y" Text, "image" uint8 (B, 3, H, W)."""
        return self.images.batch(indices) | {"y": text_of(self._encoded()[indices.numpy()], SHAPE)}

    def provide(self, needs: Iterable[str], side: int) -> list[str]:
        """Every batch has its pictures; all other needs are left."""
        return self.images.provide(needs, side)

    def reference(self) -> Tensor:
        """The held-out pictures, uint8 (4000, 3, H, W)."""
        return self.images.reference()

    def decode(self, x: Tensor, rounding: str = "nearest") -> Tensor:
        """Values in [-1, 1] to uint8."""
        return self.images.decode(x, rounding)

    def encode(self, prompts: Sequence[str]) -> Text:
        """Prompts as a backbone takes them, float32 on the CPU.

        Raises:
            DiffxError: a word that the encoder does not know, or more words than it takes.
        """
        return self._encoder(prompts)

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name != "_encoder"}

    @cached_property
    def _encoder(self) -> TextEncoder:
        return TextEncoder(self.images)

    @cached_property
    def _path(self) -> Path:
        """Of the encoded captions, made first if need be."""
        path = cache.home() / "data" / f"captions-text-{self.identity}.npy"
        cache.entry(path, self._facts, self._write)
        return path

    def _encoded(self) -> NDArray[np.float16]:
        # Opened anew each time, as the pictures are.
        rows: NDArray[np.float16] = np.load(self._path, mmap_mode="r", allow_pickle=False)
        return rows

    def _write(self, path: Path) -> dict[str, Any]:
        """A row for each caption."""
        width = SHAPE.length * SHAPE.channels + SHAPE.pooled + 1
        rows = np.lib.format.open_memmap(path, mode="w+", dtype=np.float16, shape=(self.count, width))
        captions = self.images.captions(self.count)
        for start in range(0, self.count, text_encoder.ENCODED_AT_ONCE):
            some = captions[start : start + text_encoder.ENCODED_AT_ONCE]
            rows[start : start + len(some)] = row_of(self.encode(some))
        rows.flush()
        return {}
