"""DDT, the decoupled diffusion transformer (Wang et al. 2025, arXiv 2504.05741): an encoder, whose output conditions
each token of a decoder. Without a decoder it is the improved DiT that DDT is compared with.

The functions are those of MCG-NJU/DDT; the weights are laid out otherwise. Patches are embedded by a convolution. The
head's rows are in the order row, column, channel (theirs: channel first). SwiGLU's w1 and w3 are one layer, and their
w2 is our w3. A head's channels of queries and keys are sorted by axis (theirs alternate). Their SiLU before all
modulations is inside each block. Time runs from data to noise, theirs the other way.
"""

from typing import Any

from torch import Tensor, nn

from diffx.backbone.dit import TINY, DiT, check_sizes, reference_dit, run
from diffx.backbone.layers.block import Block, FinalLayer, zero
from diffx.backbone.layers.embedding import LabelEmbedder, PatchEmbed, TimestepEmbedder, join_patches
from diffx.backbone.layers.modulation import rows
from diffx.backbone.protocol import Backbone, Memory
from diffx.errors import DiffxError
from diffx.tokens import Tokens

PERIOD, EXTENT = 10, 16
"""The longest period of the time's features, and the place of the grid's last row and column, whatever its side."""


class DDT(Backbone):
    """The first blocks are the encoder, conditioned by time and label; at the border the decoder starts anew from the
    image, and each of its tokens is conditioned by time and by the encoder's token at its place.

    decoder_layers: the last so many blocks (6 in XL, 4 in L and B); 0 is the improved DiT. Positions are rotary only.
    The head has a LayerNorm and starts at zero; blocks start as torch's linear layers do, not as the identity.

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
        decoder_layers: int = 6,
    ) -> None:
        super().__init__()
        check_sizes(input_size, patch_size, hidden_size, num_heads, depth)
        if not 0 <= decoder_layers < depth:
            raise DiffxError(
                f"backbone.decoder_layers={decoder_layers} of backbone.depth={depth} leaves no encoder; type a number "
                f"from 0 to {depth - 1}."
            )
        self.shape = (in_channels, input_size, input_size)
        self.patch_size, self.side = patch_size, input_size // patch_size
        self.hidden_size, self.num_heads, self.num_classes = hidden_size, num_heads, num_classes
        self.borders = (depth - decoder_layers,) if decoder_layers else ()
        self._mlp_ratio = mlp_ratio

        self.x_embedder = PatchEmbed(patch_size, in_channels, hidden_size)
        self.s_embedder = PatchEmbed(patch_size, in_channels, hidden_size) if decoder_layers else None
        self.t_embedder = TimestepEmbedder(hidden_size, period=PERIOD)
        self.y_embedder = LabelEmbedder(num_classes, hidden_size)
        self.blocks = nn.ModuleList(
            Block(
                hidden_size,
                num_heads,
                self.side,
                mlp_ratio=mlp_ratio,
                norm="scaled_rmsnorm",
                mlp="swiglu",
                qk_norm=True,
                rotary=True,
                bias=False,
                extent=EXTENT,
            )
            for _ in range(depth)
        )
        self.final_layer = FinalLayer(hidden_size, patch_size, in_channels, "layernorm", shared_modulation=False)
        self._initialise()

    def _initialise(self) -> None:
        for embedder in (self.x_embedder, self.s_embedder):
            if embedder is not None:
                nn.init.xavier_uniform_(embedder.proj.weight.view(self.hidden_size, -1))
                nn.init.zeros_(embedder.proj.bias)  # type: ignore[arg-type]
        nn.init.normal_(self.y_embedder.embedding_table.weight, std=0.02)
        nn.init.normal_(self.t_embedder.mlp[0].weight, std=0.02)  # type: ignore[arg-type]
        nn.init.normal_(self.t_embedder.mlp[2].weight, std=0.02)  # type: ignore[arg-type]
        zero(self.final_layer)

    def embed(self, x: Tensor, t: Tensor, y: Tensor, memory: Memory) -> tuple[Tokens, Tensor]:
        """As DiT's, for the encoder; what the decoder starts from goes into memory."""
        image = self.x_embedder(x)
        time, label = self.t_embedder(t), self.y_embedder(y)
        if self.s_embedder is not None:
            memory.other |= {"image": image, "time": time}
            image = self.s_embedder(x)
        if t.ndim == 2:
            each = time + rows(label)
            return Tokens(image, cond=each), each.mean(1)
        return Tokens(image), time + label

    def run_block(self, depth: int, tokens: Tokens, cond: Tensor, memory: Memory) -> Tokens:
        return run(self.blocks[depth], depth, tokens, cond, memory)

    def switch(self, depth: int, tokens: Tokens, cond: Tensor, memory: Memory) -> Tokens:
        return Tokens(memory.other["image"], cond=rows(memory.other["time"]) + tokens.x)

    def head(self, tokens: Tokens, cond: Tensor) -> Tensor:
        patches = self.final_layer(tokens.x, cond if tokens.cond is None else tokens.cond)
        return join_patches(patches, self.side, self.patch_size)

    def reference(self) -> DiT:
        """DiT of these sizes."""
        return reference_dit(self, self._mlp_ratio)

    @classmethod
    def tiny(cls, **options: Any) -> "DDT":
        """Six blocks on sixteen tokens, the last two the decoder, for tests."""
        return cls(**{**TINY, "decoder_layers": 2, **options})
