"""U-ViT (Bao et al. 2023, arXiv 2209.12152): time and label are tokens, and long skips join the halves of the network.

The functions are those of baofff/U-ViT; here its time and label stand behind the grid and not before it, all blocks are
one list, and `depth` counts the block in the middle too. learn_sigma is ours: theirs predicts the noise alone.
"""

from typing import Any

import torch
from torch import Tensor, nn

from diffx.backbone.dit import TINY, check_sizes, run
from diffx.backbone.layers.attention import Attention
from diffx.backbone.layers.embedding import LabelEmbedder, PatchEmbed, join_patches, sinusoids
from diffx.backbone.layers.mlp import Mlp
from diffx.backbone.protocol import Backbone, Memory
from diffx.errors import DiffxError
from diffx.tokens import Tokens

TIMES = ("interval", "steps")


class UViTBlock(nn.Module):
    """A pre-norm block that nothing conditions. With `skip` it first merges a remembered state."""

    def __init__(self, dim: int, heads: int, side: int, mlp_ratio: float, skip: bool) -> None:
        super().__init__()
        self.skip_linear = nn.Linear(2 * dim, dim) if skip else None
        self.norm1 = nn.LayerNorm(dim)
        self.attn = Attention(dim, heads, side, qk_norm=False, rotary=False, bias=False)
        self.norm2 = nn.LayerNorm(dim)
        self.mlp = Mlp(dim, int(dim * mlp_ratio), approximate="none")

    def forward(
        self,
        x: Tensor,
        cond: Tensor,
        ids: Tensor | None = None,
        remembered: Tensor | None = None,
        attention: list[Tensor] | None = None,
    ) -> Tensor:
        if self.skip_linear is not None:
            assert remembered is not None
            x = self.skip_linear(torch.cat([x, remembered], dim=-1))
        x = x + self.attn(self.norm1(x), ids, attention)
        return x + self.mlp(self.norm2(x))


class UViT(Backbone):
    """A transformer over the grid's tokens, then the label's, then the time's.

    depth: odd; the blocks behind the middle one merge the outputs of those before it, last in first out. conv: a 3x3
    convolution over the image at the end (L has it, H has not). times: "interval", which are scaled by 1000, or "steps"
    of a chain from 0, counted from 1 as U-ViT has them; the time's features have no MLP, so the unit matters.

    Raises DiffxError when sizes do not fit each other.
    """

    extra_tokens = 2

    def __init__(
        self,
        input_size: int = 32,
        patch_size: int = 2,
        in_channels: int = 4,
        hidden_size: int = 1024,
        depth: int = 21,
        num_heads: int = 16,
        mlp_ratio: float = 4.0,
        num_classes: int = 1000,
        learn_sigma: bool = False,
        conv: bool = True,
        times: str = "interval",
    ) -> None:
        super().__init__()
        check_sizes(input_size, patch_size, hidden_size, num_heads, depth)
        if depth % 2 == 0:
            raise DiffxError(
                f"backbone.depth={depth} is even, and U-ViT has a block in the middle; type backbone.depth={depth + 1}."
            )
        if times not in TIMES:
            raise DiffxError(f"backbone.times={times} is not known; type backbone.times= one of {', '.join(TIMES)}.")
        self.shape = (in_channels, input_size, input_size)
        self.patch_size, self.side, self.times = patch_size, input_size // patch_size, times
        self.hidden_size, self.num_classes = hidden_size, num_classes
        half = depth // 2
        self.skips = {half + 1 + j: half - j for j in range(half)}

        self.x_embedder = PatchEmbed(patch_size, in_channels, hidden_size)
        self.y_embedder = LabelEmbedder(num_classes, hidden_size)
        self.pos_embed = nn.Parameter(torch.empty(1, self.grid_tokens + self.extra_tokens, hidden_size))
        self.blocks = nn.ModuleList(
            UViTBlock(hidden_size, num_heads, self.side, mlp_ratio, skip=d in self.skips) for d in range(depth)
        )
        out_channels = 2 * in_channels if learn_sigma else in_channels
        self.norm = nn.LayerNorm(hidden_size)
        self.linear = nn.Linear(hidden_size, patch_size * patch_size * out_channels)
        self.conv = nn.Conv2d(out_channels, out_channels, 3, padding=1) if conv else None
        self._initialise()

    def _initialise(self) -> None:
        """Small random weights everywhere; nothing starts at zero but biases."""
        nn.init.trunc_normal_(self.pos_embed, std=0.02)
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.trunc_normal_(module.weight, std=0.02)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)

    def embed(self, x: Tensor, t: Tensor, y: Tensor, memory: Memory) -> tuple[Tokens, Tensor]:
        """x (B, C, H, W), t (B,), y (B,) -> tokens (B, N + 2, D), and nothing beside them (B, 0): time and label are in
        the stream."""
        steps = 1000 * t if self.times == "interval" else t + 1
        image = self.x_embedder(x)
        time = sinusoids(steps, self.hidden_size, period=10000).to(image.dtype)
        tokens = torch.cat([image, self.y_embedder(y)[:, None].to(image.dtype), time[:, None]], dim=1)
        return Tokens(tokens + self.pos_embed), image.new_zeros(len(image), 0)

    def run_block(self, depth: int, tokens: Tokens, cond: Tensor, memory: Memory) -> Tokens:
        remembered = memory.states[self.skips[depth]] if depth in self.skips else None
        return run(self.blocks[depth], depth, tokens, cond, memory, remembered=remembered)

    def head(self, tokens: Tokens, cond: Tensor) -> Tensor:
        patches = self.linear(self.norm(tokens.x[:, : self.grid_tokens]))
        image = join_patches(patches, self.side, self.patch_size)
        return image if self.conv is None else self.conv(image)

    @classmethod
    def tiny(cls, **options: Any) -> "UViT":
        """Seven blocks on sixteen tokens and two, for tests."""
        return cls(**{**TINY, "depth": 7, **options})
