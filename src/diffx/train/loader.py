"""The loader of a run: whole batches from a given step on."""

import signal
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader

from diffx import ranks
from diffx.config.settings import Settings
from diffx.data import Data, StepBatches
from diffx.data.stream import stream_of
from diffx.train.clock import Meter

PREFETCHED = 2  # batches that each worker has read or is reading


class _Batches:
    """A data object as torch's loader wants it: many indices at once."""

    def __init__(self, data: Data) -> None:
        self.data = data

    def __getitems__(self, indices: list[int]) -> dict[str, Tensor]:
        return self.data.batch(torch.as_tensor(indices))


@dataclass(frozen=True)
class Waited:
    """Batches of a loader, the time until each is there being the meter's part "data"."""

    loader: Iterable[Any]
    meter: Meter

    def __iter__(self) -> Iterator[Any]:
        batches = iter(self.loader)
        while True:
            self.meter.waits()
            batch = next(batches, None)
            self.meter.got()
            if batch is None:
                return
            yield batch


def _whole(batch: Any) -> Any:
    """Batches come whole from the data: nothing to collate."""
    return batch


def _ignore_signals(worker: int) -> None:
    """Slurm and terminals signal every process of a run, and a run that is to save needs its data until the last step.
    Workers end when the loader tells them to, or when the run is gone."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)


def make_loader(settings: Settings, data: Data, start: int, meter: Meter) -> Iterable[Any]:
    """Batches from step `start` on, without an end: the steps and the budget say when to stop."""
    world, parts = ranks.world(), settings.trainer.accumulate
    stream, workers = stream_of(data), settings.data.workers
    order = stream.order if stream else None
    sampler: Iterable[Tensor]
    sampler = StepBatches(len(data), settings.batch_size, settings.seed, start, ranks.rank(), world, parts, order)
    if stream and stream.is_remote:
        sampler = stream.ahead(sampler, lag=1 + (workers * PREFETCHED if workers else 0))
    loader: DataLoader[Any] = DataLoader(
        _Batches(data),  # type: ignore[arg-type]
        batch_sampler=sampler,  # type: ignore[arg-type]
        collate_fn=_whole,
        num_workers=workers,
        prefetch_factor=PREFETCHED if workers else None,
        worker_init_fn=_ignore_signals,
        pin_memory=torch.cuda.is_available(),
    )
    return Waited(loader, meter)
