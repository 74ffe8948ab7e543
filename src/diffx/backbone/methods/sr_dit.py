"""SR-DiT's network: REG's class token, SPRINT's join of two paths, values of the first block in every later one, and
rotary positions beside the table. All of it is there at sampling too.

The functions are those of SwayStar123/SpeedrunDiT; here the class token stands behind the grid, has no row in the
position table, and its layers are called class_embedder and class_head; the join is called fuse,
and λ value_mix, a row of one.
"""

from collections.abc import Mapping
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
from diffx.backbone.layers.block import Block, FinalLayer, zero
from diffx.backbone.layers.embedding import LabelEmbedder, PatchEmbed, TimestepEmbedder, join_patches
from diffx.backbone.layers.modulation import SharedModulation
from diffx.backbone.layers.position import ROTARY
from diffx.backbone.methods.sprint import SparseMiddle, check_middle
from diffx.backbone.protocol import Memory, Shape, pack, unpack
from diffx.errors import DiffxError
from diffx.tokens import Tokens, scatter

FIRST = 1
"""The border at which the values of the first block begin to travel with their tokens."""


class SRDiT(SparseMiddle):
    """DiT's options, and these.

    class_dim: width of the encoder's class token (768 for DINOv2-B); the state is the image and the class token,
    packed. dense: so many blocks at either end see all tokens. rotary: queries and keys turn with their places, beside
    the table. value_residual: blocks after the first mix its values into theirs. The mask token starts at zero and is
    trained. learn_sigma must be false: a packed prediction has no variance.

    The first block's values go with the tokens as their conditioning (Tokens.cond), which spans gather and restore;
    the modulation has the sample's own.

    Raises DiffxError when sizes do not fit each other.
    """

    extra_tokens = 1
    sparse_first = False

    def __init__(
        self,
        input_size: int = 16,
        patch_size: int = 1,
        in_channels: int = 32,
        hidden_size: int = 768,
        depth: int = 12,
        num_heads: int = 12,
        mlp_ratio: float = 4.0,
        num_classes: int = 1000,
        learn_sigma: bool = False,
        position: str = "sincos",
        norm: str = "rmsnorm",
        mlp: str = "gelu",
        qk_norm: bool = True,
        conditioning: str = "adaln_zero",
        class_dim: int = 768,
        dense: int = 2,
        rotary: bool = True,
        value_residual: bool = True,
        zero_init: bool = True,
    ) -> None:
        super().__init__()
        check_sizes(input_size, patch_size, hidden_size, num_heads, depth)
        check_options(position=position, norm=norm, mlp=mlp, conditioning=conditioning)
        check_middle(depth, dense)
        if learn_sigma:
            raise DiffxError("SRDiT predicts no variance; type backbone.learn_sigma=false.")
        shared = conditioning == "adaln_single"
        self.shape, self.class_dim = (in_channels, input_size, input_size), class_dim
        self.patch_size, self.side = patch_size, input_size // patch_size
        self.hidden_size, self.num_heads, self.num_classes = hidden_size, num_heads, num_classes
        self.middle, self.value_residual = (dense, depth - dense), value_residual
        self.borders = tuple(sorted({FIRST, *self.middle} if value_residual else self.middle))
        self._block_options: dict[str, Any] = {
            "mlp_ratio": mlp_ratio,
            "norm": norm,
            "mlp": mlp,
            "qk_norm": qk_norm,
            "rotary": rotary or position in ROTARY,
            "shared_modulation": shared,
            "extra": self.extra_tokens,
        }
        self._mlp_ratio = mlp_ratio

        self.x_embedder = PatchEmbed(patch_size, in_channels, hidden_size)
        self.class_embedder = nn.Sequential(nn.Linear(class_dim, hidden_size), nn.RMSNorm(hidden_size, eps=1e-6))
        self.t_embedder = TimestepEmbedder(hidden_size)
        self.y_embedder = LabelEmbedder(num_classes, hidden_size)
        self.shared_modulation = SharedModulation(hidden_size) if shared else None
        if position != "rope":
            self.pos_embed = fresh_position(hidden_size, self.side, trained=position == "learned")
        self.blocks = nn.ModuleList(self.new_block(value_residual and d > 0) for d in range(depth))
        self.fuse = nn.Linear(2 * hidden_size, hidden_size)
        self.mask_token = nn.Parameter(torch.zeros(1, 1, hidden_size))
        self.final_layer = FinalLayer(hidden_size, patch_size, in_channels, norm, shared)
        self.class_head = nn.Linear(hidden_size, class_dim)
        initialise(self, zero_init)
        zero(self.class_head)

    @property
    def streams(self) -> Mapping[str, Shape]:
        return {"image": self.shape, "class": (self.class_dim,)}

    def new_block(self, value_residual: bool = False) -> nn.Module:
        """A block like those of this backbone, freshly initialised (the identity)."""
        options = {**self._block_options, "value_residual": value_residual}
        return fresh_block(Block(self.hidden_size, self.num_heads, self.side, **options))

    def embed(self, x: Tensor, t: Tensor, y: Tensor, memory: Memory) -> tuple[Tokens, Tensor]:
        """x packed (B, K, 1, 1), t (B,), y (B,) -> the grid's tokens and the class token, and the conditioning."""
        parts = unpack(x, self.streams)
        grid = embed_patches(self, parts["image"])
        class_token = self.class_embedder(parts["class"])[:, None]
        return embed_condition(self, Tokens(torch.cat([grid, class_token.to(grid.dtype)], dim=1)), t, y)

    def run_block(self, depth: int, tokens: Tokens, cond: Tensor, memory: Memory) -> Tokens:
        values: list[Tensor] | None = None if tokens.cond is None else [tokens.cond]
        if depth == 0 and self.value_residual:
            values = []
        x = run(self.blocks[depth], depth, Tokens(tokens.x, tokens.ids), cond, memory, values=values).x
        if depth == 0 and values:
            memory.other["values"] = Tokens(values[0], tokens.ids)
        return Tokens(x, tokens.ids, tokens.cond)

    def switch(self, depth: int, tokens: Tokens, cond: Tensor, memory: Memory) -> Tokens:
        if depth == FIRST and self.value_residual:
            tokens = Tokens(tokens.x, tokens.ids, self._values(tokens, memory))
        return super().switch(depth, tokens, cond, memory)

    def _values(self, tokens: Tokens, memory: Memory) -> Tensor:
        """The first block's values (B, N, D) of all tokens, in order; zeros for those that it has not seen."""
        values = memory.other.get("values")
        if values is None or len(values.x) != len(tokens.x):  # a plugin has run the block on fewer samples, or on none
            return torch.zeros_like(tokens.x)
        return values.x if values.ids is None else scatter(torch.zeros_like(tokens.x), values.ids, values.x)

    def head(self, tokens: Tokens, cond: Tensor) -> Tensor:
        modulated = self.final_layer.modulated(tokens.x, cond)
        image = join_patches(self.final_layer.linear(modulated[:, :-1]), self.side, self.patch_size)
        return pack({"image": image, "class": self.class_head(modulated[:, -1])})

    def reference(self) -> DiT:
        """DiT of these sizes."""
        return reference_dit(self, self._mlp_ratio)

    @classmethod
    def tiny(cls, **options: Any) -> "SRDiT":
        """Six blocks on sixteen tokens and the class token of DINOv2-B, for tests."""
        return cls(**{**TINY, "patch_size": 2, "in_channels": 4, **options})
