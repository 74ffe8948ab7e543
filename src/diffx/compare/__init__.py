"""The comparison: metric-against-cost curves, time-to-target and tables, drawn only from runs that are comparable."""

from diffx.compare.output import compare

__all__ = ["compare"]
