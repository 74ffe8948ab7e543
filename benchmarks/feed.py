"""Where training batches come from: made-up samples on disk, read by worker processes, encoded in line or ahead."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader

from benchmarks.layouts import LAYOUTS, Read
from diffx.plugin import Batch

Encoders = dict[str, Callable[[Tensor], Tensor]]


@dataclass(frozen=True)
class Source:
    """Where the samples lie, how many there are, how many processes read them, and who encodes their images.

    encoder_flops: of each encoder on one image; counted before it is compiled, since a counter sees nothing of it then.
    """

    root: Path
    samples: int
    workers: int
    encoders: Encoders
    encoder_flops: dict[str, int]

    def loader(self, layout: str, batch_size: int, images: bool, pinned: bool) -> DataLoader[Any]:
        """Random batches without an end."""
        return DataLoader(
            _Rows(LAYOUTS[layout](self.root, images)),  # type: ignore[arg-type]
            batch_sampler=_Order(self.samples, batch_size),
            collate_fn=_whole,
            num_workers=self.workers,
            pin_memory=pinned,
            persistent_workers=self.workers > 0,
        )


class Ahead:
    """Batches made and encoded one step ahead, on a GPU stream of their own, while the batch before is trained on."""

    def __init__(self, batches: Iterator[Batch], encode: Callable[[Batch], Batch]) -> None:
        self.batches, self.encode, self.stream = batches, encode, torch.cuda.Stream()
        self.following = self._make()

    def __iter__(self) -> "Ahead":
        return self

    def __next__(self) -> Batch:
        training = torch.cuda.current_stream()
        training.wait_stream(self.stream)
        batch = self.following
        for value in batch.values():
            value.record_stream(training)  # or its memory could be given away while the step still reads it
        self.following = self._make()
        return batch

    def _make(self) -> Batch:
        with torch.cuda.stream(self.stream):
            return self.encode(next(self.batches))


class _Rows:
    """A data set that is asked for whole batches."""

    def __init__(self, read: Read) -> None:
        self.read = read

    def __getitems__(self, indices: list[int]) -> Batch:
        return self.read(torch.tensor(indices))


class _Order:
    """Indices of random batches, without an end."""

    def __init__(self, samples: int, batch_size: int) -> None:
        self.samples, self.batch_size = samples, batch_size

    def __iter__(self) -> Iterator[list[int]]:
        rng = torch.Generator().manual_seed(0)
        while True:
            yield torch.randint(self.samples, (self.batch_size,), generator=rng).tolist()


def _whole(batch: Any) -> Any:
    return batch
