"""Metrics of samples against real images, as torchmetrics: the ADM suite and those of the embedded data."""

from diffx.metrics.adm import ADMMetrics
from diffx.metrics.embedded import EmbeddedMetrics
from diffx.metrics.text.captions import CaptionMetrics
from diffx.metrics.text.clip import CLIPMetrics

__all__ = ["ADMMetrics", "CLIPMetrics", "CaptionMetrics", "EmbeddedMetrics"]
