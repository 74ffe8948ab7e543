"""RAEv2's network (2026, arXiv 2605.18324): DiT^DH whose first blocks are conditioned by tokens of time and label that
stand behind the grid, and which may have an early head, a weaker prediction from a part of these blocks.

The functions are those of the release (nanovisionx/RAEv2, 8a0d238), and were found from its recorded tensors; queries,
keys and values are one layer here, and the gate and the value of SwiGLU. Its time is ours.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from diffx.backbone.dit import TINY, DiT, check_sizes, reference_dit, run
from diffx.backbone.layers.block import Block, FinalLayer, initialise_linears, zero
from diffx.backbone.layers.conditioning import PlainBlock
from diffx.backbone.layers.embedding import FourierEmbedder, LabelEmbedder, PatchEmbed, join_patches
from diffx.backbone.layers.modulation import rows
from diffx.backbone.protocol import Backbone, Memory
from diffx.backbone.rae import check_decoder
from diffx.errors import DiffxError
from diffx.tokens import Tokens


class RAE2(Backbone):
    """`depth` blocks of width hidden_size over the grid's tokens, `time_tokens` and `label_tokens`; the latter are left
    at the border, behind which `decoder_depth` blocks of decoder_width are as DiT^DH's.

    early_depth: after so many blocks an early head predicts too, and the prediction has 2C channels, its own and the
    early one's; plugins=[early_head] trains it. None: there is none.

    Raises DiffxError when sizes do not fit each other.
    """

    def __init__(
        self,
        input_size: int = 16,
        patch_size: int = 1,
        in_channels: int = 1024,
        hidden_size: int = 1440,
        depth: int = 28,
        num_heads: int = 20,
        mlp_ratio: float = 4.0,
        num_classes: int = 1000,
        decoder_width: int = 2048,
        decoder_depth: int = 2,
        decoder_heads: int = 16,
        time_tokens: int = 4,
        label_tokens: int = 8,
        early_depth: int | None = None,
    ) -> None:
        super().__init__()
        check_sizes(input_size, patch_size, hidden_size, num_heads, depth)
        check_decoder(decoder_width, decoder_depth, decoder_heads)
        check_in_context(time_tokens, label_tokens)
        if early_depth is not None and not 1 <= early_depth < depth:
            raise DiffxError(
                f"backbone.early_depth={early_depth} is none of the {depth} blocks before the last; type a number from "
                f"1 to {depth - 1}, or null for no early head."
            )
        self.shape = (in_channels, input_size, input_size)
        self.patch_size, self.side = patch_size, input_size // patch_size
        self.hidden_size, self.num_heads, self.num_classes = hidden_size, num_heads, num_classes
        self.early_depth, self.decoder_width = early_depth, decoder_width
        self.extra_tokens, self.tokens_after = time_tokens + label_tokens, {depth: self.grid_tokens}
        self.borders = (depth,) if early_depth is None else (early_depth, depth)
        self.narrows_at = depth + 1
        self._mlp_ratio = mlp_ratio

        self.s_embedder = PatchEmbed(patch_size, in_channels, hidden_size)
        self.x_embedder = PatchEmbed(patch_size, in_channels, decoder_width)
        self.t_embedder = FourierEmbedder(hidden_size)
        self.y_embedder = LabelEmbedder(num_classes, hidden_size)
        self.time_tokens = nn.Parameter(torch.empty(time_tokens, hidden_size))
        self.label_tokens = nn.Parameter(torch.empty(label_tokens, hidden_size))
        self.s_projector = nn.Linear(hidden_size, decoder_width) if decoder_width != hidden_size else nn.Identity()
        options: dict[str, Any] = {"norm": "scaled_rmsnorm", "mlp": "swiglu", "rotary": True, "qk_norm": True}
        options |= {"mlp_ratio": mlp_ratio}
        extra = self.extra_tokens
        encoder = [PlainBlock(hidden_size, num_heads, self.side, extra=extra, **options) for _ in range(depth)]
        decoder = [Block(decoder_width, decoder_heads, self.side, **options) for _ in range(decoder_depth)]
        self.blocks = nn.ModuleList([*encoder, *decoder])
        self.early_layer = None
        if early_depth is not None:
            self.early_layer = FinalLayer(hidden_size, patch_size, in_channels, "scaled_rmsnorm", False)
        self.final_layer = FinalLayer(decoder_width, patch_size, in_channels, "scaled_rmsnorm", False)
        self._initialise()

    def _initialise(self) -> None:
        """As DiT: the decoder's blocks start as the identity, the heads at zero. The release's was not looked at."""
        initialise_linears(self)
        for embedder in (self.s_embedder, self.x_embedder):
            nn.init.xavier_uniform_(embedder.proj.weight.view(embedder.proj.weight.shape[0], -1))
            nn.init.zeros_(embedder.proj.bias)  # type: ignore[arg-type]
        small = (self.y_embedder.embedding_table.weight, self.time_tokens, self.label_tokens)
        for weight in (*small, self.t_embedder.mlp[0].weight, self.t_embedder.mlp[2].weight):
            nn.init.normal_(weight, std=0.02)  # type: ignore[arg-type]
        for block in self.blocks:
            if isinstance(block, Block):
                zero(block.adaLN_modulation)
        for layer in (self.final_layer, self.early_layer):
            if layer is not None:
                zero(layer.adaLN_modulation)
                zero(layer.linear)

    def embed(self, x: Tensor, t: Tensor, y: Tensor, memory: Memory) -> tuple[Tokens, Tensor]:
        """x (B, C, H, W), t (B,), y (B,) -> the grid's tokens, those of time and of the label, and nothing beside them
        (B, 0); what the decoder starts from goes into memory."""
        grid, time = self.s_embedder(x).float(), self.t_embedder(t)
        memory.other |= {"image": self.x_embedder(x).float(), "time": time}
        times = time[:, None] + self.time_tokens
        labels = self.y_embedder(y)[:, None] + self.label_tokens
        return Tokens(torch.cat([grid, times.float(), labels.float()], dim=1)), grid.new_zeros(len(grid), 0)

    def run_block(self, depth: int, tokens: Tokens, cond: Tensor, memory: Memory) -> Tokens:
        if tokens.cond is None:
            return run(self.blocks[depth], depth, tokens, cond, memory)
        decoded = run(self.blocks[depth], depth, self._conditioned(tokens), cond, memory)
        return decoded._replace(cond=tokens.cond)

    def switch(self, depth: int, tokens: Tokens, cond: Tensor, memory: Memory) -> Tokens:
        """At the early head's depth it predicts, and the stream goes on; at the decoder's the stream is what conditions
        each token, and the early prediction goes with it."""
        each = F.silu(rows(memory.other["time"]) + tokens.x[:, : self.grid_tokens])
        if self.early_layer is not None and depth == self.early_depth:
            memory.other["early"] = self.early_layer(each, each)
            return tokens
        early = [memory.other["early"]] if "early" in memory.other else []
        return Tokens(memory.other["image"], cond=torch.cat([self.s_projector(each), *early], dim=-1))

    def _conditioned(self, tokens: Tokens) -> Tokens:
        """The tokens with that part of their conditioning alone which the decoder's blocks take."""
        assert tokens.cond is not None
        return tokens._replace(cond=tokens.cond[..., : self.decoder_width])

    def head(self, tokens: Tokens, cond: Tensor) -> Tensor:
        assert tokens.cond is not None
        early = tokens.cond[..., self.decoder_width :]
        patches = [self.final_layer(tokens.x, self._conditioned(tokens).cond)]
        patches += [early.to(patches[0].dtype)] if early.shape[-1] else []
        return torch.cat([join_patches(part, self.side, self.patch_size) for part in patches], dim=1)

    def reference(self) -> DiT:
        """DiT of the first blocks' sizes."""
        return reference_dit(self, self._mlp_ratio)

    @classmethod
    def tiny(cls, **options: Any) -> "RAE2":
        """Four blocks on sixteen tokens and six, and two wider ones, for tests."""
        small = {"patch_size": 2, "in_channels": 4, "depth": 4, "decoder_width": 48, "decoder_heads": 4}
        return cls(**{**TINY, **small, "time_tokens": 2, "label_tokens": 4, **options})


def check_in_context(time_tokens: int, label_tokens: int) -> None:
    """Raises DiffxError where time or label would have no token."""
    for name, count in (("time_tokens", time_tokens), ("label_tokens", label_tokens)):
        if count < 1:
            raise DiffxError(f"backbone.{name}={count} must be at least 1; type 4 for times and 8 for labels.")
