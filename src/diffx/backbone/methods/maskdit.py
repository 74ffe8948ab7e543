"""MaskDiT's network (Zheng et al. 2023, arXiv 2306.09305): a DiT as the encoder, a layer that narrows the stream, and a
small decoder. All of it is there at sampling too.

The functions are those of Anima-Lab/MaskDiT; here encoder, narrowing layer (decoder_layer there) and decoder are one
list of blocks, and labels are rows of a table (theirs: a linear layer without a bias on one-hot rows).
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
    fresh_position,
    initialise,
    reference_dit,
    run,
)
from diffx.backbone.layers.block import Block, FinalLayer, zero
from diffx.backbone.layers.embedding import PatchEmbed, TimestepEmbedder, join_patches
from diffx.backbone.layers.position import ROTARY, add_position
from diffx.backbone.protocol import Backbone, Memory
from diffx.errors import DiffxError
from diffx.tokens import Tokens


class LabelTable(nn.Module):
    """Labels y (B,) -> (B, D), zeros for the null label."""

    def __init__(self, num_classes: int, hidden_size: int) -> None:
        super().__init__()
        self.embedding_table = nn.Embedding(num_classes, hidden_size)

    def forward(self, y: Tensor) -> Tensor:
        known = y < self.embedding_table.num_embeddings
        return self.embedding_table(torch.where(known, y, 0)) * known.unsqueeze(1)


class Narrowing(FinalLayer):
    """Tokens (B, N, D), normalised and modulated, through one linear layer to the decoder's width."""

    def __init__(self, dim: int, width: int, norm: str) -> None:
        super().__init__(dim, 1, width, norm, shared_modulation=False)

    def forward(self, x: Tensor, cond: Tensor, ids: Tensor | None = None, attention: None = None) -> Tensor:
        return super().forward(x, cond)


class MaskDiTBackbone(Backbone):
    """The first `depth` blocks are DiT's, with its options; the next one narrows the stream; decoder_depth blocks
    follow, decoder_width wide, with a fixed sin-cos position of their own. The same sum of time and label conditions
    all.

    decoder_width, decoder_depth, decoder_heads: 512, 8 and 16 as released, whatever the size of the encoder.

    Raises DiffxError when sizes do not fit each other.
    """

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
        position: str = "sincos",
        norm: str = "layernorm",
        mlp: str = "gelu",
        qk_norm: bool = False,
        conditioning: str = "adaln_zero",
        decoder_width: int = 512,
        decoder_depth: int = 8,
        decoder_heads: int = 16,
        zero_init: bool = True,
    ) -> None:
        super().__init__()
        check_sizes(input_size, patch_size, hidden_size, num_heads, depth)
        check_options(position=position, norm=norm, mlp=mlp, conditioning=conditioning)
        check_small_decoder(conditioning, decoder_width, decoder_depth, decoder_heads)
        self.shape = (in_channels, input_size, input_size)
        self.patch_size, self.side = patch_size, input_size // patch_size
        self.hidden_size, self.num_heads, self.num_classes = hidden_size, num_heads, num_classes
        self.decoder_width, self.narrows_at = decoder_width, depth + 1
        self._mlp_ratio, self._learn_sigma = mlp_ratio, learn_sigma

        options: dict[str, Any] = {"mlp_ratio": mlp_ratio, "norm": norm, "mlp": mlp, "qk_norm": qk_norm}
        options |= {"rotary": position in ROTARY, "cond_dim": hidden_size}
        self.x_embedder = PatchEmbed(patch_size, in_channels, hidden_size)
        self.t_embedder = TimestepEmbedder(hidden_size)
        self.y_embedder = LabelTable(num_classes, hidden_size)
        self.shared_modulation = None
        if position != "rope":
            self.pos_embed = fresh_position(hidden_size, self.side, trained=position == "learned")
        self.decoder_pos_embed = fresh_position(decoder_width, self.side, trained=False)
        encoder = [Block(hidden_size, num_heads, self.side, **options) for _ in range(depth)]
        decoder = [Block(decoder_width, decoder_heads, self.side, **options) for _ in range(decoder_depth)]
        narrowing = Narrowing(hidden_size, decoder_width, norm)
        self.blocks = nn.ModuleList([*encoder, narrowing, *decoder])
        out_channels = 2 * in_channels if learn_sigma else in_channels
        self.final_layer = FinalLayer(decoder_width, patch_size, out_channels, norm, False, cond_dim=hidden_size)
        initialise(self, zero_init)
        if zero_init:
            zero(narrowing.linear)

    def embed(self, x: Tensor, t: Tensor, y: Tensor, memory: Memory) -> tuple[Tokens, Tensor]:
        """As DiT's."""
        return embed_condition(self, Tokens(embed_patches(self, x)), t, y)

    def run_block(self, depth: int, tokens: Tokens, cond: Tensor, memory: Memory) -> Tokens:
        if depth == self.narrows_at:
            tokens = tokens._replace(x=add_position(tokens.x, self.decoder_pos_embed, tokens.ids))
        return run(self.blocks[depth], depth, tokens, cond, memory)

    def head(self, tokens: Tokens, cond: Tensor) -> Tensor:
        return join_patches(self.final_layer(tokens.x, cond), self.side, self.patch_size)

    def reference(self) -> DiT:
        """DiT of the encoder's sizes."""
        return reference_dit(self, self._mlp_ratio, self._learn_sigma)

    @classmethod
    def tiny(cls, **options: Any) -> "MaskDiTBackbone":
        """Four blocks on sixteen tokens, the narrowing one and two of a decoder, for tests."""
        small = {"depth": 4, "decoder_width": 24, "decoder_depth": 2, "decoder_heads": 3}
        return cls(**{**TINY, **small, **options})


def check_small_decoder(conditioning: str, width: int, depth: int, heads: int) -> None:
    """Raises DiffxError where the decoder's sizes do not fit each other, or blocks of two widths were to share."""
    if conditioning != "adaln_zero":
        raise DiffxError(
            f"backbone.conditioning={conditioning} shares modulations among blocks, which here have two widths; type "
            "backbone.conditioning=adaln_zero."
        )
    if heads < 1 or width < 4 or width % heads or width % 4 or depth < 1:
        raise DiffxError(
            f"backbone.decoder_width={width} with decoder_heads={heads} and decoder_depth={depth} is no decoder: the "
            "width must be a multiple of the heads and of 4, and there must be a block; type for instance 512, 16, 8."
        )
