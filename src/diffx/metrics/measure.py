"""Measuring a stream of images, and what names a measurement: the number of images and the networks' weights."""

from collections.abc import Iterable

from torch import Tensor
from torchmetrics import MetricCollection


def measure(metrics: MetricCollection, batches: Iterable[Tensor], batch_size: int) -> tuple[dict[str, float], int]:
    """The metrics' values for these images, and how many this process has seen.

    batches: uint8 (b, C, H, W), of any size; metrics get `batch_size` at a time. Every process has to call it, unless
    the metrics are told otherwise (sync_on_compute=False).
    """
    metrics.reset()
    seen = 0
    for batch in batches:
        for images in batch.split(batch_size):
            metrics.update(images)
            seen += len(images)
    return {name: value.item() for name, value in metrics.compute().items()}, seen


def sample_count(n: int) -> str:
    """1000 -> "1k", 2048 -> "2048": the suffix of a metric's name."""
    return f"{n // 1000}k" if n and n % 1000 == 0 else str(n)
