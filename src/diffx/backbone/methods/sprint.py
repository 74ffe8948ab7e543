"""SPRINT's network (Park et al. 2025, arXiv 2510.21986): dense blocks, blocks that may see few tokens, dense blocks,
and a layer that joins what both paths made of each token. All of it is there at sampling too.

The functions are those of snap-research/Sprint; here its three lists of blocks are one, patches are embedded by a
convolution, the head's rows are in the order row, column, channel (theirs: channel first), and a head's channels of
queries and keys are laid out as Rotary has them.
"""

from typing import Any

import torch
from torch import Tensor, nn

from diffx.backbone.dit import (
    TINY,
    DiT,
    check_options,
    check_sizes,
    embed_condition,
    embed_patches,
    fresh_block,
    fresh_position,
    initialise,
    reference_dit,
    run,
)
from diffx.backbone.layers.block import Block, FinalLayer
from diffx.backbone.layers.embedding import LabelEmbedder, PatchEmbed, TimestepEmbedder, join_patches
from diffx.backbone.layers.modulation import SharedModulation
from diffx.backbone.layers.position import ROTARY
from diffx.backbone.protocol import Backbone, Memory
from diffx.errors import DiffxError
from diffx.tokens import Tokens


class SparseMiddle(Backbone):
    """A backbone whose blocks [start, stop) may see few tokens, or none: what comes out of them is joined, token by
    token, with what went in.

    middle: start and stop. fuse: Linear(2D, D) over (sparse, dense), or (dense, sparse) without sparse_first.
    mask_token: (1, 1, D), what stands at stop for a token that has not come through the middle blocks.
    """

    middle: tuple[int, int]
    fuse: nn.Linear
    mask_token: nn.Parameter
    sparse_first: bool = True

    def switch(self, depth: int, tokens: Tokens, cond: Tensor, memory: Memory) -> Tokens:
        start, stop = self.middle
        if depth == start:
            memory.other["dense"] = tokens.x
        if depth != stop:
            return tokens
        both = (tokens.x, memory.other["dense"])
        x = self.fuse(torch.cat(both if self.sparse_first else both[::-1], dim=-1)).to(tokens.x.dtype)
        if self.mask_token.requires_grad:
            x = x + 0 * self.mask_token  # a gradient, which other ranks wait for, where no token is missing
        return Tokens(x, tokens.ids, tokens.cond)


class SprintBackbone(SparseMiddle):
    """DiT's options, of which SPRINT has rotary positions alone and RMSNorm on queries and keys, and dense: so many
    blocks at either end see all tokens. The mask token is drawn once and never trained.

    Raises DiffxError when sizes do not fit each other.
    """

    token_times = True

    def __init__(
        self,
        input_size: int = 32,
        patch_size: int = 2,
        in_channels: int = 4,
        hidden_size: int = 1152,
        depth: int = 28,
        num_heads: int = 16,
        mlp_ratio: float = 4.0,
        num_classes: int = 1000,
        learn_sigma: bool = False,
        position: str = "rope",
        norm: str = "layernorm",
        mlp: str = "gelu",
        qk_norm: bool = True,
        conditioning: str = "adaln_zero",
        dense: int = 2,
        zero_init: bool = True,
    ) -> None:
        super().__init__()
        check_sizes(input_size, patch_size, hidden_size, num_heads, depth)
        check_options(position=position, norm=norm, mlp=mlp, conditioning=conditioning)
        check_middle(depth, dense)
        shared = conditioning == "adaln_single"
        self.shape = (in_channels, input_size, input_size)
        self.patch_size, self.side = patch_size, input_size // patch_size
        self.hidden_size, self.num_heads, self.num_classes = hidden_size, num_heads, num_classes
        self.middle = self.borders = (dense, depth - dense)
        self._block_options: dict[str, Any] = {
            "mlp_ratio": mlp_ratio,
            "norm": norm,
            "mlp": mlp,
            "qk_norm": qk_norm,
            "rotary": position in ROTARY,
            "shared_modulation": shared,
        }
        self._mlp_ratio, self._learn_sigma = mlp_ratio, learn_sigma

        self.x_embedder = PatchEmbed(patch_size, in_channels, hidden_size)
        self.t_embedder = TimestepEmbedder(hidden_size)
        self.y_embedder = LabelEmbedder(num_classes, hidden_size)
        self.shared_modulation = SharedModulation(hidden_size) if shared else None
        if position != "rope":
            self.pos_embed = fresh_position(hidden_size, self.side, trained=position == "learned")
        self.blocks = nn.ModuleList(self.new_block() for _ in range(depth))
        self.fuse = nn.Linear(2 * hidden_size, hidden_size)
        out_channels = 2 * in_channels if learn_sigma else in_channels
        self.final_layer = FinalLayer(hidden_size, patch_size, out_channels, norm, shared)
        self.mask_token = nn.Parameter(0.02 * torch.randn(1, 1, hidden_size), requires_grad=False)
        initialise(self, zero_init)

    def new_block(self) -> nn.Module:
        """A block like those of this backbone, freshly initialised (the identity)."""
        return fresh_block(Block(self.hidden_size, self.num_heads, self.side, **self._block_options))

    def embed(self, x: Tensor, t: Tensor, y: Tensor, memory: Memory) -> tuple[Tokens, Tensor]:
        """As DiT's."""
        return embed_condition(self, Tokens(embed_patches(self, x)), t, y)

    def run_block(self, depth: int, tokens: Tokens, cond: Tensor, memory: Memory) -> Tokens:
        return run(self.blocks[depth], depth, tokens, cond, memory)

    def head(self, tokens: Tokens, cond: Tensor) -> Tensor:
        patches = self.final_layer(tokens.x, cond if tokens.cond is None else tokens.cond)
        return join_patches(patches, self.side, self.patch_size)

    def reference(self) -> DiT:
        """DiT of these sizes."""
        return reference_dit(self, self._mlp_ratio, self._learn_sigma)

    @classmethod
    def tiny(cls, **options: Any) -> "SprintBackbone":
        """Six blocks on sixteen tokens, two of them in the middle, for tests."""
        return cls(**{**TINY, **options})


def check_middle(depth: int, dense: int) -> None:
    """Raises DiffxError where no block is left between the dense ones."""
    if not 1 <= dense < depth - dense:
        raise DiffxError(
            f"backbone.dense={dense} blocks at either end of backbone.depth={depth} leave none between them; type a "
            f"number from 1 to {max((depth - 1) // 2, 1)}, and at least three blocks."
        )
