"""MDT's network (Gao et al. 2023, arXiv 2303.14389): a DiT whose last blocks are a decoder with a position of its own,
with a relative position bias, and in v2 with long skips. All of it is there at sampling too.

Parameter names are DiT's; checkpoint/layouts knows MDTv2's three groups of blocks.
"""

from typing import Any

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
from diffx.backbone.layers.position import ROTARY, add_position
from diffx.backbone.protocol import Backbone, Memory
from diffx.errors import DiffxError
from diffx.tokens import Tokens


class MDTBackbone(Backbone):
    """DiT's options and these of MDT.

    decoder_layers: the last so many blocks are the decoder, before which a second position embedding is added.
    relative_bias: a learned attention bias for each offset and head. skips: MDTv2's long skips between the halves of
    the encoder, and its input skips into every decoder block.

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
        position: str = "sincos",
        norm: str = "layernorm",
        mlp: str = "gelu",
        qk_norm: bool = False,
        conditioning: str = "adaln_zero",
        zero_init: bool = True,
        relative_bias: bool = False,
        decoder_layers: int = 2,
        skips: bool = False,
    ) -> None:
        super().__init__()
        check_sizes(input_size, patch_size, hidden_size, num_heads, depth)
        check_options(position=position, norm=norm, mlp=mlp, conditioning=conditioning)
        check_decoder(depth, decoder_layers, skips)
        shared = conditioning == "adaln_single"
        self.shape = (in_channels, input_size, input_size)
        self.patch_size, self.side = patch_size, input_size // patch_size
        self.hidden_size, self.num_heads, self.num_classes = hidden_size, num_heads, num_classes
        self.decoder_start = depth - decoder_layers
        self.skips = skip_sources(depth, decoder_layers) if skips else {}
        self._block_options: dict[str, Any] = {
            "mlp_ratio": mlp_ratio,
            "norm": norm,
            "mlp": mlp,
            "qk_norm": qk_norm,
            "rotary": position in ROTARY,
            "relative_bias": relative_bias,
            "shared_modulation": shared,
        }
        self._mlp_ratio, self._learn_sigma = mlp_ratio, learn_sigma

        self.x_embedder = PatchEmbed(patch_size, in_channels, hidden_size)
        self.t_embedder = TimestepEmbedder(hidden_size)
        self.y_embedder = LabelEmbedder(num_classes, hidden_size)
        self.shared_modulation = SharedModulation(hidden_size) if shared else None
        trained = position == "learned"
        if position != "rope":
            self.pos_embed = fresh_position(hidden_size, self.side, trained)
        self.decoder_pos_embed = fresh_position(hidden_size, self.side, trained)
        self.blocks = nn.ModuleList(self.new_block(skip=d in self.skips) for d in range(depth))
        out_channels = 2 * in_channels if learn_sigma else in_channels
        self.final_layer = FinalLayer(hidden_size, patch_size, out_channels, norm, shared)
        initialise(self, zero_init)

    def new_block(self, skip: bool = False) -> nn.Module:
        """A block like those of this backbone, freshly initialised (the identity)."""
        return fresh_block(Block(self.hidden_size, self.num_heads, self.side, skip=skip, **self._block_options))

    def embed(self, x: Tensor, t: Tensor, y: Tensor, memory: Memory) -> tuple[Tokens, Tensor]:
        """As DiT's."""
        return embed_condition(self, Tokens(embed_patches(self, x)), t, y)

    def run_block(self, depth: int, tokens: Tokens, cond: Tensor, memory: Memory) -> Tokens:
        if depth == self.decoder_start:
            x = add_position(tokens.x, self.decoder_pos_embed, tokens.ids)
            tokens = Tokens(x, tokens.ids, tokens.cond)
        remembered = memory.states[self.skips[depth]] if depth in self.skips else None
        return run(self.blocks[depth], depth, tokens, cond, memory, remembered=remembered)

    def head(self, tokens: Tokens, cond: Tensor) -> Tensor:
        patches = self.final_layer(tokens.x, cond if tokens.cond is None else tokens.cond)
        return join_patches(patches, self.side, self.patch_size)

    def reference(self) -> DiT:
        """DiT of these sizes, to which MDT's papers relate their cost."""
        return reference_dit(self, self._mlp_ratio, self._learn_sigma)

    @classmethod
    def tiny(cls, **options: Any) -> "MDTBackbone":
        """Six blocks on sixteen tokens, the last two a decoder, for tests."""
        return cls(**{**TINY, "relative_bias": True, **options})


def skip_sources(depth: int, decoder_layers: int) -> dict[int, int]:
    """Block -> the depth whose state it merges: the encoder's second half takes the first half's outputs, last in first
    out; every decoder block takes the embedded input (MDTv2)."""
    encoder = depth - decoder_layers
    half = encoder // 2
    long = {half + j: half - j for j in range(half)}
    return long | dict.fromkeys(range(encoder, depth), 0)


def check_decoder(depth: int, decoder_layers: int, skips: bool) -> None:
    """Raises DiffxError where the decoder does not fit the blocks, or skips do not pair them."""
    if not 1 <= decoder_layers < depth:
        raise DiffxError(
            f"backbone.decoder_layers={decoder_layers} does not fit backbone.depth={depth}; "
            f"type a number from 1 to {max(depth - 1, 1)}."
        )
    if skips and (depth - decoder_layers) % 2:
        raise DiffxError(
            f"backbone.skips=true needs an even encoder and a decoder, got depth={depth} with "
            f"decoder_layers={decoder_layers}; type for instance backbone.decoder_layers={2 if depth % 2 == 0 else 1}."
        )
