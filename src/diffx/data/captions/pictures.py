"""Pictures of scenes with their captions: the training split, and a held-out one in which compositions are new."""

from collections.abc import Iterable, Iterator
from functools import cached_property
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from diffx.data.captions import looks, scene
from diffx.data.captions.language import caption
from diffx.data.captions.scene import SHAPE, SHAPES, Scenes, draw_scenes
from diffx.errors import DiffxError
from diffx.pixels.values import signed, to_uint8
from diffx.store import cache
from diffx.store.digest import digest

VERSION = 1  # of the drawing and of the captions: a change makes all cached ones anew
COUNT, REFERENCE_COUNT, PROMPTS = 20_000, 4_000, 500
UNSEEN_EVERY = 4  # of the held-out scenes every so many has a composition that no training scene has
TRAIN, REFERENCE = 10, 11  # streams of random numbers
DRAWN_AT_ONCE = 500
DRAWS = scene.DRAWS + looks.DRAWS + 16


class Pictures:
    """RGB pictures of one to three shapes, 20,000 for training and 4,000 held out, a quarter of these with held-out
    compositions (diffx.data.captions.scene).

    Picture i depends on (seed, i) alone. They are made at the first use, in a few seconds, and kept in the cache
    folder. Their label is the outline of the first shape; it is for linear probes, and nothing is conditioned by it.

    Args:
        seed: of the random numbers.
        size: edge in pixels, from 24 to 256 and divisible by 4: below, small shapes cannot be told apart.

    Raises:
        DiffxError: a seed or size that cannot be.
    """

    name = "captions"
    num_classes = len(SHAPES)

    def __init__(self, seed: int = 0, size: int = 32) -> None:
        if seed < 0:
            raise DiffxError(f"data.source.seed={seed} is negative. Type data.source.seed=0.")
        if not 24 <= size <= 256 or size % 4:
            raise DiffxError(f"data.size={size}: scenes are drawn in 24, 28, 32, ... 256 pixels. Type data.size=32.")
        self.seed, self.size, self.shape = seed, size, (3, size, size)
        self.identity = digest(self._facts(TRAIN))

    def __len__(self) -> int:
        return COUNT

    def batch(self, indices: Tensor) -> dict[str, Tensor]:
        """Training pictures: "x" float32 (B, 3, H, W) in [-1, 1], "y" int64 (B,), "image" uint8 (B, 3, H, W)."""
        images = torch.from_numpy(self._images(TRAIN)[indices.numpy()])
        return {"x": signed(images), "y": first_shapes(self.scenes)[indices], "image": images}

    def provide(self, needs: Iterable[str], side: int) -> list[str]:
        """Every batch has its pictures; all other needs are left."""
        return [need for need in needs if need != "image"]

    def reference(self) -> Tensor:
        """The held-out pictures, uint8 (4000, 3, H, W)."""
        return torch.from_numpy(np.array(self._images(REFERENCE)))

    def reference_labels(self) -> Tensor:
        """int64 (4000,)."""
        return first_shapes(self.held_out)

    def decode(self, x: Tensor, rounding: str = "nearest") -> Tensor:
        """Values in [-1, 1] to uint8."""
        return to_uint8(x, rounding)

    @cached_property
    def scenes(self) -> Scenes:
        """Of the training pictures."""
        return join(self._scenes(TRAIN, start, stop) for start, stop in _parts(COUNT))

    @cached_property
    def held_out(self) -> Scenes:
        """Of the held-out pictures."""
        return join(self._scenes(REFERENCE, start, stop) for start, stop in _parts(REFERENCE_COUNT))

    def places(self) -> NDArray[np.float32]:
        """Of the shapes in the training pictures, (N, 3, 3): x, y and radius in [-1, 1], radius 0 behind the last."""
        numbers = self._uniforms(TRAIN, 0, COUNT)[:, scene.DRAWS : scene.DRAWS + looks.DRAWS]
        return looks.places_of(self.scenes, numbers)

    def captions(self, count: int = COUNT) -> list[str]:
        """What is said of the first so many training pictures."""
        return self._captions(TRAIN, self.scenes, count)

    def prompts(self) -> list[str]:
        """What samples are drawn for when a run is measured: captions of the first 500 held-out pictures."""
        return self._captions(REFERENCE, self.held_out, PROMPTS)

    def _captions(self, stream: int, scenes: Scenes, count: int) -> list[str]:
        numbers = self._uniforms(stream, 0, count)[:, scene.DRAWS + looks.DRAWS :]
        first = zip(scenes.number[:count], scenes.row[:count], scenes.objects[:count], numbers, strict=True)
        return [caption(int(n), int(row), objects, draws) for n, row, objects, draws in first]

    def _facts(self, stream: int) -> dict[str, Any]:
        count = COUNT if stream == TRAIN else REFERENCE_COUNT
        facts = {"name": self.name, "version": VERSION, "stream": stream, "seed": self.seed}
        return facts | {"shape": [count, *self.shape], "dtype": "uint8"}

    def _images(self, stream: int) -> NDArray[np.uint8]:
        facts = self._facts(stream)
        path = cache.home() / "data" / f"captions-{digest(facts)}.npy"
        if stream not in self._checked:
            cache.entry(path, facts, lambda fresh: self._write(fresh, stream))
            self._checked.add(stream)
        # Opened anew each time (0.1 ms): an open memory map would be copied into every worker that is spawned.
        images: NDArray[np.uint8] = np.load(path, mmap_mode="r", allow_pickle=False)
        return images

    @cached_property
    def _checked(self) -> set[int]:
        return set()

    def _write(self, path: Any, stream: int) -> dict[str, Any]:
        count = COUNT if stream == TRAIN else REFERENCE_COUNT
        images = np.lib.format.open_memmap(path, mode="w+", dtype=np.uint8, shape=(count, *self.shape))
        for start, stop in _parts(count):
            numbers = self._uniforms(stream, start, stop)[:, scene.DRAWS : scene.DRAWS + looks.DRAWS]
            images[start:stop] = looks.draw_pictures(self._scenes(stream, start, stop), numbers, self.size)
        images.flush()
        return {}

    def _scenes(self, stream: int, start: int, stop: int) -> Scenes:
        numbers = self._uniforms(stream, start, stop)[:, : scene.DRAWS]
        if stream == TRAIN:
            return draw_scenes(numbers, unseen=False)
        seen, unseen = draw_scenes(numbers, unseen=False), draw_scenes(numbers, unseen=True)
        new = np.arange(start, stop) % UNSEEN_EVERY == UNSEEN_EVERY - 1
        count, row = (np.where(new, b, a) for a, b in zip(seen[:2], unseen[:2], strict=True))
        return Scenes(count, row, np.where(new[:, None, None], unseen.objects, seen.objects))

    def _uniforms(self, stream: int, start: int, stop: int) -> NDArray[np.float32]:
        """Rows [start, stop) of an endless table of numbers in [0, 1)."""
        bits = np.random.Philox(key=np.array([self.seed, stream], dtype=np.uint64))
        raw = bits.advance(start * DRAWS // 4).random_raw((stop - start) * DRAWS)
        table: NDArray[np.float32] = (raw >> np.uint64(40)).astype(np.float32).reshape(-1, DRAWS)
        return table / np.float32(1 << 24)


def first_shapes(scenes: Scenes) -> Tensor:
    """The outline of the first shape of each scene, int64 (N,)."""
    return torch.from_numpy(scenes.objects[:, 0, SHAPE])


def join(parts: Iterable[Scenes]) -> Scenes:
    """Scenes one after the other."""
    return Scenes(*(np.concatenate(columns) for columns in zip(*parts, strict=True)))


def _parts(count: int) -> Iterator[tuple[int, int]]:
    return ((start, min(start + DRAWN_AT_ONCE, count)) for start in range(0, count, DRAWN_AT_ONCE))
