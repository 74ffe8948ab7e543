"""TREAD: token routing for architecture-agnostic diffusion training (Krause et al. 2025, arXiv 2501.04765)."""

from diffx.backbone import Backbone
from diffx.errors import DiffxError
from diffx.plugin import Plugin, Span
from diffx_plugins.tread.guidance import RoutedGuidance, last_block

__all__ = ["TREAD", "RoutedGuidance"]


class TREAD(Plugin):
    """A random share of the tokens skips the blocks start to end and rejoins with the state it had before `start`.

    selection_ratio: the share that is routed around. start, end: first and last block of the route, both inclusive
    as in CompVis/tread ("2 -> 8" is seven blocks); end None is depth − 4, the paper's choice, and depth − 2 below
    12 blocks. drop_from: the first block that sees fewer tokens, later than `start` for a delayed route. No loss, no
    parameter, and nothing at sampling.
    """

    def __init__(
        self, selection_ratio: float = 0.5, start: int = 2, end: int | None = None, drop_from: int | None = None
    ) -> None:
        super().__init__()
        if not 0 <= selection_ratio < 1:
            raise DiffxError(
                f"plugins.tread.selection_ratio={selection_ratio} is the share of tokens routed around the blocks; "
                "type a number in [0, 1), for instance 0.5."
            )
        self.selection_ratio, self.start, self.end, self.drop_from = selection_ratio, start, end, drop_from

    def setup(self, backbone: Backbone) -> None:
        depth = len(backbone.blocks)
        end = last_block(depth) if self.end is None else self.end
        start = self.start if self.drop_from is None else self.drop_from
        # CompVis/tread rounds the number routed around, a Span the number kept.
        routed = int(backbone.grid_tokens * self.selection_ratio)
        self.span = Span(start, end + 1, routed / backbone.grid_tokens, save=self.start)
