"""Metrics of samples against real images, as torchmetrics: the ADM suite and those of the embedded data."""

from diffx.metrics.adm import ADMMetrics
from diffx.metrics.embedded import EmbeddedMetrics

__all__ = ["ADMMetrics", "EmbeddedMetrics"]
