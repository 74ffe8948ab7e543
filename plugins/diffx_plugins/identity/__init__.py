"""Blocks replaced by the identity: a control for token routing."""

from torch import Tensor

from diffx.backbone import Backbone
from diffx.backbone.protocol import RunBlock
from diffx.errors import DiffxError
from diffx.plugin import Aux, Plugin
from diffx.tokens import Tokens


class Identity(Plugin):
    """Blocks start to end, both inclusive, do nothing and are not trained.

    end None is depth − 4, and depth − 2 below 12 blocks, as in TREAD, whose route it stands in for. A DiT block starts
    as the identity (adaLN-zero), and here it stays that, so that sampling runs what was trained.
    """

    def __init__(self, start: int = 2, end: int | None = None) -> None:
        super().__init__()
        self.start, self.end = start, end

    def setup(self, backbone: Backbone) -> None:
        blocks = len(backbone.blocks)
        end = blocks - (4 if blocks >= 12 else 2) if self.end is None else self.end
        if not 0 <= self.start <= end < blocks:
            raise DiffxError(
                f"plugins.identity.start={self.start} and end={end} are no blocks of a backbone of {blocks}; "
                f"type 0 <= start <= end <= {blocks - 1}."
            )
        if joined := [block for block in backbone.skips if self.start <= block <= end]:
            raise DiffxError(
                f"plugins.identity replaces block {joined[0]}, which merges an earlier state; take a backbone without "
                "skips."
            )
        if not backbone.starts_as_identity:
            raise DiffxError(
                f"plugins.identity leaves blocks as they start, and those of this {type(backbone).__name__} do not "
                "start as the identity; take one whose modulations start at zero (backbone.conditioning=adaln_zero or "
                "adaln_single, backbone.zero_init=true)."
            )
        self.wraps = tuple(range(self.start, end + 1))
        for block in self.wraps:
            backbone.blocks[block].requires_grad_(False)

    def around(self, depth: int, run: RunBlock, tokens: Tokens, cond: Tensor, aux: Aux) -> Tokens:
        return tokens
