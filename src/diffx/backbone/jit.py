"""JiT, "just image transformers" (Li & He 2025, arXiv 2511.13720): large patches of pixels through a narrow embedding,
and label tokens that join the stream at a given block. It predicts the image, with the error on velocities.

Exact against LTH14/JiT (MIT): network, gradients and samples are recorded in tests/golden/jit. There the label's tokens
stand before the grid, and time runs from noise to data; its dropout, which H/16 is trained with, is not here.
"""

from typing import Any

import torch
from torch import Tensor, nn

from diffx.backbone.dit import TINY, DiT, check_sizes, fresh_position, reference_dit, run
from diffx.backbone.layers.block import Block, FinalLayer, initialise_linears, zero
from diffx.backbone.layers.embedding import LabelEmbedder, TimestepEmbedder, join_patches
from diffx.backbone.protocol import Backbone, Memory
from diffx.errors import DiffxError
from diffx.tokens import Tokens


class BottleneckEmbed(nn.Module):
    """Images (B, C, H, W) -> tokens (B, N, D), row by row: each patch through two linear layers."""

    def __init__(self, patch_size: int, in_channels: int, bottleneck: int, hidden_size: int) -> None:
        super().__init__()
        self.down = nn.Conv2d(in_channels, bottleneck, patch_size, stride=patch_size, bias=False)
        self.up = nn.Conv2d(bottleneck, hidden_size, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.up(self.down(x)).flatten(2).transpose(1, 2).contiguous()


class JiT(Backbone):
    """Blocks of LightningDiT's form, with normed queries and keys, conditioned by time and label (adaLN). Before block
    `context_start` come `context_tokens` tokens behind the grid, each the label's embedding and a learned position; the
    head does not see them.

    bottleneck: width between the two layers that embed a patch, of which the first has no bias.

    Raises DiffxError when sizes do not fit each other.
    """

    starts_as_identity = True

    def __init__(
        self,
        input_size: int = 256,
        patch_size: int = 16,
        in_channels: int = 3,
        hidden_size: int = 768,
        depth: int = 12,
        num_heads: int = 12,
        mlp_ratio: float = 4.0,
        num_classes: int = 1000,
        bottleneck: int = 128,
        context_tokens: int = 32,
        context_start: int = 4,
    ) -> None:
        super().__init__()
        check_sizes(input_size, patch_size, hidden_size, num_heads, depth)
        check_context(depth, bottleneck, context_tokens, context_start)
        self.shape = (in_channels, input_size, input_size)
        self.patch_size, self.side = patch_size, input_size // patch_size
        self.hidden_size, self.num_heads, self.num_classes = hidden_size, num_heads, num_classes
        self.borders, self.tokens_after = (), {}
        if context_tokens:
            self.borders, self.tokens_after = (context_start,), {context_start: self.grid_tokens + context_tokens}
        self._mlp_ratio = mlp_ratio

        self.x_embedder = BottleneckEmbed(patch_size, in_channels, bottleneck, hidden_size)
        self.t_embedder = TimestepEmbedder(hidden_size)
        self.y_embedder = LabelEmbedder(num_classes, hidden_size)
        self.pos_embed = fresh_position(hidden_size, self.side, trained=False)
        self.context_pos_embed = nn.Parameter(torch.empty(context_tokens, hidden_size)) if context_tokens else None
        options: dict[str, Any] = {"norm": "scaled_rmsnorm", "mlp": "swiglu", "rotary": True, "qk_norm": True}
        options |= {"mlp_ratio": mlp_ratio}
        self.blocks = nn.ModuleList(
            Block(hidden_size, num_heads, self.side, extra=context_tokens if d >= context_start else 0, **options)
            for d in range(depth)
        )
        self.final_layer = FinalLayer(hidden_size, patch_size, in_channels, "scaled_rmsnorm", False)
        self._initialise()

    def _initialise(self) -> None:
        """As DiT: blocks start as the identity, the head at zero."""
        initialise_linears(self)
        for layer in (self.x_embedder.down, self.x_embedder.up):
            nn.init.xavier_uniform_(layer.weight.view(layer.weight.shape[0], -1))
        nn.init.zeros_(self.x_embedder.up.bias)  # type: ignore[arg-type]
        nn.init.normal_(self.y_embedder.embedding_table.weight, std=0.02)
        nn.init.normal_(self.t_embedder.mlp[0].weight, std=0.02)  # type: ignore[arg-type]
        nn.init.normal_(self.t_embedder.mlp[2].weight, std=0.02)  # type: ignore[arg-type]
        if self.context_pos_embed is not None:
            nn.init.normal_(self.context_pos_embed, std=0.02)
        for block in self.blocks:
            zero(block.adaLN_modulation)  # type: ignore[arg-type]
        zero(self.final_layer.adaLN_modulation)
        zero(self.final_layer.linear)

    def embed(self, x: Tensor, t: Tensor, y: Tensor, memory: Memory) -> tuple[Tokens, Tensor]:
        """As DiT's; the label goes into memory for its tokens."""
        label = self.y_embedder(y)
        memory.other["label"] = label
        return Tokens(self.x_embedder(x) + self.pos_embed), self.t_embedder(t) + label

    def run_block(self, depth: int, tokens: Tokens, cond: Tensor, memory: Memory) -> Tokens:
        return run(self.blocks[depth], depth, tokens, cond, memory)

    def switch(self, depth: int, tokens: Tokens, cond: Tensor, memory: Memory) -> Tokens:
        context = memory.other["label"][:, None] + self.context_pos_embed
        return Tokens(torch.cat([tokens.x, context.to(tokens.x.dtype)], dim=1))

    def head(self, tokens: Tokens, cond: Tensor) -> Tensor:
        patches = self.final_layer(tokens.x[:, : self.grid_tokens], cond)
        return join_patches(patches, self.side, self.patch_size)

    def reference(self) -> DiT:
        """DiT of these sizes."""
        return reference_dit(self, self._mlp_ratio)

    @classmethod
    def tiny(cls, **options: Any) -> "JiT":
        """Six blocks on sixteen tokens, with three more of the label from the third block on, for tests."""
        small = {"patch_size": 2, "in_channels": 4, "bottleneck": 8, "context_tokens": 3, "context_start": 2}
        return cls(**{**TINY, **small, **options})


def check_context(depth: int, bottleneck: int, context_tokens: int, context_start: int) -> None:
    """Raises DiffxError where label tokens would join before no block, or patches have no width."""
    if bottleneck < 1:
        raise DiffxError(f"backbone.bottleneck={bottleneck} must be at least 1; type backbone.bottleneck=128.")
    if context_tokens < 0:
        raise DiffxError(f"backbone.context_tokens={context_tokens} is no number of tokens; type 32, or 0 for none.")
    if not 0 <= context_start < depth:
        raise DiffxError(
            f"backbone.context_start={context_start} is none of the {depth} blocks; type a number from 0 to "
            f"{depth - 1}, a third of the blocks for instance."
        )
