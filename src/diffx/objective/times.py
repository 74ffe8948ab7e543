"""Times shaped to go with what they belong to."""

from torch import Tensor


def expand_times(t: Tensor, x: Tensor) -> Tensor:
    """t (B,) as (B, 1, ...), to go with x (B, ...); a map of times (B, 1, H, W) goes with x as it is."""
    return t.view(-1, *(1 for _ in x.shape[1:])) if t.ndim == 1 else t
