"""The comparison: metric-against-cost curves, time-to-target and tables, drawn only from runs that are comparable."""

from diffx.compare.report import compare

__all__ = ["compare"]
