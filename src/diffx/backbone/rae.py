"""DiT^DH, the network of RAE (Zheng et al. 2025, arXiv 2510.11690): a DiT whose stream conditions each token of a short
and wide decoder, which starts anew from the latent, as DDT's does.

The functions and the names of the weights are those of bytetriper/RAE, whose time is ours.
"""

from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from diffx.backbone.dit import TINY, DiT, check_sizes, fresh_position, initialise, reference_dit, run
from diffx.backbone.layers.block import Block, FinalLayer
from diffx.backbone.layers.embedding import FourierEmbedder, LabelEmbedder, PatchEmbed, join_patches
from diffx.backbone.layers.modulation import rows
from diffx.backbone.protocol import Backbone, Memory
from diffx.errors import DiffxError
from diffx.tokens import Tokens


class DiTDH(Backbone):
    """`depth` blocks of width hidden_size, conditioned by time and label; at the border `decoder_depth` blocks of
    decoder_width begin, each token conditioned by time and by what has become of its place.

    Blocks are LightningDiT's: RMSNorm with a scale, SwiGLU, rotary positions; the first ones have the table too. Their
    conditioning has been through a SiLU before that of the modulation, as released.

    Raises DiffxError when sizes do not fit each other.
    """

    token_times = True
    shared_modulation = None

    def __init__(
        self,
        input_size: int = 16,
        patch_size: int = 1,
        in_channels: int = 768,
        hidden_size: int = 1152,
        depth: int = 28,
        num_heads: int = 16,
        mlp_ratio: float = 4.0,
        num_classes: int = 1000,
        decoder_width: int = 2048,
        decoder_depth: int = 2,
        decoder_heads: int = 16,
    ) -> None:
        super().__init__()
        check_sizes(input_size, patch_size, hidden_size, num_heads, depth)
        check_decoder(decoder_width, decoder_depth, decoder_heads)
        self.shape = (in_channels, input_size, input_size)
        self.patch_size, self.side = patch_size, input_size // patch_size
        self.hidden_size, self.num_heads, self.num_classes = hidden_size, num_heads, num_classes
        self.borders, self.narrows_at = (depth,), depth + 1
        self._mlp_ratio = mlp_ratio

        self.s_embedder = PatchEmbed(patch_size, in_channels, hidden_size)
        self.x_embedder = PatchEmbed(patch_size, in_channels, decoder_width)
        self.pos_embed = fresh_position(hidden_size, self.side, trained=False)
        self.t_embedder = FourierEmbedder(hidden_size)
        self.y_embedder = LabelEmbedder(num_classes, hidden_size)
        self.s_projector = nn.Linear(hidden_size, decoder_width) if decoder_width != hidden_size else nn.Identity()
        encoder = [wide_block(hidden_size, num_heads, self.side, mlp_ratio) for _ in range(depth)]
        decoder = [wide_block(decoder_width, decoder_heads, self.side, mlp_ratio) for _ in range(decoder_depth)]
        self.blocks = nn.ModuleList([*encoder, *decoder])
        self.final_layer = FinalLayer(decoder_width, patch_size, in_channels, "scaled_rmsnorm", False)
        initialise(self)
        nn.init.xavier_uniform_(self.s_embedder.proj.weight.view(hidden_size, -1))
        nn.init.zeros_(self.s_embedder.proj.bias)  # type: ignore[arg-type]

    def embed(self, x: Tensor, t: Tensor, y: Tensor, memory: Memory) -> tuple[Tokens, Tensor]:
        """As DiT's, for the first blocks; what the decoder starts from goes into memory."""
        time, label = self.t_embedder(t), self.y_embedder(y)
        memory.other |= {"image": self.x_embedder(x).float(), "time": time}
        tokens = self.s_embedder(x) + self.pos_embed
        if t.ndim == 2:
            each = F.silu(time + rows(label))
            return Tokens(tokens, cond=each), each.mean(1)
        return Tokens(tokens), F.silu(time + label)

    def run_block(self, depth: int, tokens: Tokens, cond: Tensor, memory: Memory) -> Tokens:
        return run(self.blocks[depth], depth, tokens, cond, memory)

    def switch(self, depth: int, tokens: Tokens, cond: Tensor, memory: Memory) -> Tokens:
        each = self.s_projector(F.silu(rows(memory.other["time"]) + tokens.x))
        return Tokens(memory.other["image"], cond=each)

    def head(self, tokens: Tokens, cond: Tensor) -> Tensor:
        assert tokens.cond is not None
        return join_patches(self.final_layer(tokens.x, tokens.cond), self.side, self.patch_size)

    def reference(self) -> DiT:
        """DiT of the first blocks' sizes."""
        return reference_dit(self, self._mlp_ratio)

    @classmethod
    def tiny(cls, **options: Any) -> "DiTDH":
        """Four blocks on sixteen tokens and two wider ones, for tests."""
        small = {"patch_size": 2, "in_channels": 4, "depth": 4, "decoder_width": 48, "decoder_heads": 4}
        return cls(**{**TINY, **small, **options})


def wide_block(dim: int, heads: int, side: int, mlp_ratio: float) -> Block:
    """A block of LightningDiT's form."""
    return Block(dim, heads, side, mlp_ratio=mlp_ratio, norm="scaled_rmsnorm", mlp="swiglu", rotary=True)


def check_decoder(width: int, depth: int, heads: int) -> None:
    """Raises DiffxError where heads do not divide the decoder's width, or there is none."""
    if heads < 1 or width < 4 or width % heads or width % 4 or depth < 1:
        raise DiffxError(
            f"backbone.decoder_width={width} with decoder_heads={heads} and decoder_depth={depth} is no decoder: the "
            "width must be a multiple of the heads and of 4, and there must be a block; type for instance 2048, 16, 2."
        )
