"""How each repository lays out its weights: what its networks are in diffx, and the rules by which its files differ."""

from collections.abc import Mapping

from diffx.checkpoint.layouts.classes import CLASS_LAYOUTS
from diffx.checkpoint.layouts.layout import Layout
from diffx.checkpoint.layouts.text import TEXT_LAYOUTS

__all__ = ["LAYOUTS", "Layout"]

LAYOUTS: Mapping[str, Layout] = {**CLASS_LAYOUTS, **TEXT_LAYOUTS}
"""By the name that --as begins with."""
