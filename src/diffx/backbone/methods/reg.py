"""REG's network (Wu et al. 2025, arXiv 2507.01467): a DiT that denoises an encoder's class token beside the image.

The functions are those of Martinser/REG; here the class token stands behind the grid and not before it, has no row of
zeros in the position table, and its layers are called class_embedder (theirs: cls_projectors2 and wg_norm) and
class_head (final_layer.linear_cls). All of it is there at sampling too.
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
from diffx.backbone.protocol import Backbone, Memory, Shape, pack, unpack
from diffx.errors import DiffxError
from diffx.tokens import Tokens


class REGBackbone(Backbone):
    """DiT's options, and class_dim: the width of the encoder's class token (768 for DINOv2-B).

    The state is the image and the class token, packed. learn_sigma must be false: a packed prediction has no variance.

    Raises DiffxError when sizes do not fit each other.
    """

    extra_tokens = 1

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
        class_dim: int = 768,
        zero_init: bool = True,
    ) -> None:
        super().__init__()
        check_sizes(input_size, patch_size, hidden_size, num_heads, depth)
        check_options(position=position, norm=norm, mlp=mlp, conditioning=conditioning)
        if learn_sigma:
            raise DiffxError("REGBackbone predicts no variance; type backbone.learn_sigma=false.")
        shared = conditioning == "adaln_single"
        self.shape, self.class_dim = (in_channels, input_size, input_size), class_dim
        self.patch_size, self.side = patch_size, input_size // patch_size
        self.hidden_size, self.num_heads, self.num_classes = hidden_size, num_heads, num_classes
        self._block_options: dict[str, Any] = {
            "mlp_ratio": mlp_ratio,
            "norm": norm,
            "mlp": mlp,
            "qk_norm": qk_norm,
            "rotary": position in ROTARY,
            "shared_modulation": shared,
            "extra": self.extra_tokens,
        }
        self._mlp_ratio = mlp_ratio

        self.x_embedder = PatchEmbed(patch_size, in_channels, hidden_size)
        self.class_embedder = nn.Sequential(nn.Linear(class_dim, hidden_size), nn.LayerNorm(hidden_size, eps=1e-6))
        self.t_embedder = TimestepEmbedder(hidden_size)
        self.y_embedder = LabelEmbedder(num_classes, hidden_size)
        self.shared_modulation = SharedModulation(hidden_size) if shared else None
        if position != "rope":
            self.pos_embed = fresh_position(hidden_size, self.side, trained=position == "learned")
        self.blocks = nn.ModuleList(self.new_block() for _ in range(depth))
        self.final_layer = FinalLayer(hidden_size, patch_size, in_channels, norm, shared)
        self.class_head = nn.Linear(hidden_size, class_dim)
        initialise(self, zero_init)
        zero(self.class_head)

    @property
    def streams(self) -> Mapping[str, Shape]:
        return {"image": self.shape, "class": (self.class_dim,)}

    def new_block(self) -> nn.Module:
        """A block like those of this backbone, freshly initialised (the identity)."""
        return fresh_block(Block(self.hidden_size, self.num_heads, self.side, **self._block_options))

    def embed(self, x: Tensor, t: Tensor, y: Tensor, memory: Memory) -> tuple[Tokens, Tensor]:
        """x packed (B, K, 1, 1), t (B,), y (B,) -> the grid's tokens and the class token, and the conditioning."""
        parts = unpack(x, self.streams)
        grid = embed_patches(self, parts["image"])
        class_token = self.class_embedder(parts["class"])[:, None]
        return embed_condition(self, Tokens(torch.cat([grid, class_token.to(grid.dtype)], dim=1)), t, y)

    def run_block(self, depth: int, tokens: Tokens, cond: Tensor, memory: Memory) -> Tokens:
        return run(self.blocks[depth], depth, tokens, cond, memory)

    def head(self, tokens: Tokens, cond: Tensor) -> Tensor:
        modulated = self.final_layer.modulated(tokens.x, cond)
        image = join_patches(self.final_layer.linear(modulated[:, :-1]), self.side, self.patch_size)
        return pack({"image": image, "class": self.class_head(modulated[:, -1])})

    def reference(self) -> DiT:
        """DiT of these sizes."""
        return reference_dit(self, self._mlp_ratio)

    @classmethod
    def tiny(cls, **options: Any) -> "REGBackbone":
        """Six blocks on sixteen tokens and the class token of DINOv2-B, for tests."""
        return cls(**{**TINY, **options})
