"""The diffusion transformer of Peebles & Xie (arXiv 2212.09748), and what SiT, REPA and LightningDiT keep of it.

Parameter names are those of facebookresearch/DiT, which SiT and REPA share.
"""

from typing import Any

import torch
from torch import Tensor, nn

from diffx.backbone.layers.block import initialise_linears, zero
from diffx.backbone.layers.conditioning import BLOCKS, make_head, zero_modulation
from diffx.backbone.layers.embedding import (
    LabelEmbedder,
    PatchEmbed,
    TimestepEmbedder,
    initialise_patches,
    initialise_times,
    join_patches,
)
from diffx.backbone.layers.modulation import SharedModulation, rows
from diffx.backbone.layers.position import ROTARY, sincos_table
from diffx.backbone.protocol import Backbone, Memory
from diffx.errors import DiffxError
from diffx.tokens import Tokens, without_extra

NORMS = ("layernorm", "rmsnorm", "scaled_rmsnorm")
MLPS = ("gelu", "swiglu")
POSITIONS = ("sincos", "learned", "rope", "sincos_rope")
SUMMED = ("adaln_zero", "adaln_single")
"""The conditionings that every family of DiT's options has; DiT itself has those of BLOCKS."""


class DiT(Backbone):
    """A class-conditional diffusion transformer on a square grid.

    input_size: height and width of x. patch_size: side of a patch. learn_sigma: 2C output channels instead of C.
    position: "sincos" (fixed), "learned" (starts as sincos), "rope", or "sincos_rope" for both. norm: "layernorm" |
    "rmsnorm" | "scaled_rmsnorm", which has a learned scale beside the modulation's. mlp: "gelu" | "swiglu".
    qk_norm: RMSNorm on queries and keys. LightningDiT (Yao et al. 2025, arXiv 2501.01423) is sincos_rope,
    scaled_rmsnorm and swiglu.
    conditioning: how time and label reach the blocks, "adaln_zero" or another of layers/conditioning.py.
    zero_init: modulations and the output start at zero; false for TREAD's published runs, whose code zeroes them and
    then draws all layers anew. two_times: times may be pairs t, r, and a second embedder is fed t − r (MeanFlow, whose
    names these are); t alone is the pair t, t.

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
        zero_init: bool = True,
        two_times: bool = False,
    ) -> None:
        super().__init__()
        check_sizes(input_size, patch_size, hidden_size, num_heads, depth)
        check_options(tuple(BLOCKS), position=position, norm=norm, mlp=mlp, conditioning=conditioning)
        summed = conditioning not in ("cross_attention", "in_context")
        check_two_times(two_times, summed, conditioning)
        self.conditioning, self.two_times = conditioning, two_times
        self.token_times = summed and not two_times
        self.extra_tokens = 2 if conditioning == "in_context" else 0
        self.shape = (in_channels, input_size, input_size)
        self.patch_size, self.side = patch_size, input_size // patch_size
        self.hidden_size, self.num_heads, self.num_classes = hidden_size, num_heads, num_classes
        self._block_options: dict[str, Any] = {
            "mlp_ratio": mlp_ratio,
            "norm": norm,
            "mlp": mlp,
            "qk_norm": qk_norm,
            "rotary": position in ROTARY,
        }
        if self.extra_tokens:
            self._block_options["extra"] = self.extra_tokens

        self.x_embedder = PatchEmbed(patch_size, in_channels, hidden_size)
        self.t_embedder = TimestepEmbedder(hidden_size)
        self.y_embedder = LabelEmbedder(num_classes, hidden_size)
        self.shared_modulation = SharedModulation(hidden_size) if conditioning == "adaln_single" else None
        if position != "rope":
            self.pos_embed = fresh_position(hidden_size, self.side, trained=position == "learned")
        self.blocks = nn.ModuleList(self.new_block() for _ in range(depth))
        out_channels = 2 * in_channels if learn_sigma else in_channels
        self.final_layer = make_head(conditioning, hidden_size, patch_size, out_channels, norm)
        initialise(self, zero_init)
        self.starts_as_identity = zero_init and conditioning in SUMMED
        self.r_embedder = fresh_times(hidden_size) if two_times else None

    def new_block(self) -> nn.Module:
        """A block like those of this backbone, freshly initialised (of adaLN-Zero: the identity)."""
        block = BLOCKS[self.conditioning]
        return fresh_block(block(self.hidden_size, self.num_heads, self.side, **self._block_options))

    def embed(self, x: Tensor, t: Tensor, y: Tensor, memory: Memory) -> tuple[Tokens, Tensor]:
        """x (B, C, H, W), t (B,) or (B, N), y (B,) -> all tokens (B, N, D) and the conditioning: the sum of both
        embeddings (B, D), or (B, 7D) if shared, or both side by side (B, 2D) for cross-attention; in context they are
        the last two tokens, and nothing is beside the stream (B, 0). With times for each token, each has a conditioning
        of its own, and the sample's is their mean. t (B, 2) is a pair where there are two times."""
        tokens = Tokens(embed_patches(self, x))
        if self.conditioning == "cross_attention":
            return tokens, torch.cat([self.t_embedder(t), self.y_embedder(y)], dim=-1)
        if self.conditioning == "in_context":
            pair = torch.stack([self.t_embedder(t), self.y_embedder(y)], dim=1)
            return Tokens(torch.cat([tokens.x, pair.to(tokens.x.dtype)], dim=1)), tokens.x.new_zeros(len(x), 0)
        if self.r_embedder is not None:
            t, r = t.unbind(1) if t.ndim == 2 else (t, t)
            return embed_condition(self, tokens, t, y, self.r_embedder(t - r))
        return embed_condition(self, tokens, t, y)

    def run_block(self, depth: int, tokens: Tokens, cond: Tensor, memory: Memory) -> Tokens:
        return run(self.blocks[depth], depth, tokens, cond, memory)

    def head(self, tokens: Tokens, cond: Tensor) -> Tensor:
        tokens = without_extra(tokens, self.extra_tokens)
        patches = self.final_layer(tokens.x, cond if tokens.cond is None else tokens.cond)
        return join_patches(patches, self.side, self.patch_size)

    @classmethod
    def tiny(cls, **options: Any) -> "DiT":
        """Six blocks on sixteen tokens, for tests."""
        return cls(**{**TINY, **options})


TINY = {"input_size": 8, "hidden_size": 32, "depth": 6, "num_heads": 4, "num_classes": 10}


# What DiT shares with families that keep its embedders and its head.


def embed_patches(net: Any, x: Tensor) -> Tensor:
    """The patches of x as tokens (B, N, D) at their positions, by the network's own embedder and table."""
    tokens = net.x_embedder(x)
    # Without a table nothing else would make the residual stream float32 in autocast.
    return tokens + net.pos_embed if hasattr(net, "pos_embed") else tokens.float()


def embed_condition(
    net: Any, tokens: Tokens, t: Tensor, y: Tensor, more: Tensor | None = None
) -> tuple[Tokens, Tensor]:
    """Tokens and the conditioning of the sample, from the network's embedders of times and labels, and what is summed
    with them (B, D)."""
    label = net.y_embedder(y) if more is None else net.y_embedder(y) + more
    if t.ndim == 2:
        each = net.t_embedder(t) + rows(label)
        cond = each.mean(1)
        if net.shared_modulation is not None:
            each, cond = net.shared_modulation(each), net.shared_modulation(cond)
        return Tokens(tokens.x, tokens.ids, each), cond
    cond = net.t_embedder(t) + label
    return tokens, cond if net.shared_modulation is None else net.shared_modulation(cond)


def run(block: nn.Module, depth: int, tokens: Tokens, cond: Tensor, memory: Memory, **more: Any) -> Tokens:
    """A block on the tokens present; its queries and keys are kept where memory asks for them."""
    attention: list[Tensor] | None = [] if depth in memory.attends else None
    x = block(tokens.x, cond if tokens.cond is None else tokens.cond, tokens.ids, attention=attention, **more)
    if attention is not None:
        memory.attention[depth] = (attention[0], attention[1])
    return Tokens(x, tokens.ids, tokens.cond)


def fresh_times(dim: int) -> TimestepEmbedder:
    """An embedder of times, initialised as DiT's."""
    embedder = TimestepEmbedder(dim)
    initialise_linears(embedder)
    initialise_times(embedder)
    return embedder


def fresh_position(dim: int, side: int, trained: bool) -> nn.Parameter:
    """A position table (1, N, D) that starts as sin-cos."""
    return nn.Parameter(sincos_table(dim, side)[None].to(torch.empty(0).device), requires_grad=trained)


def fresh_block(block: nn.Module) -> nn.Module:
    """Initialise a block as DiT does: one of adaLN-Zero is the identity."""
    initialise_linears(block)
    zero_modulation(block)
    return block


def initialise(net: Any, zero_init: bool = True) -> None:
    """DiT's initialisation: residual branches and the output start at zero, or with zero_init=False as other layers
    (CompVis/tread)."""
    net.starts_as_identity = zero_init
    initialise_linears(net)
    initialise_patches(net.x_embedder)
    nn.init.normal_(net.y_embedder.embedding_table.weight, std=0.02)
    initialise_times(net.t_embedder)
    if not zero_init:
        return
    for adaptive in [*net.blocks, net.final_layer]:
        zero_modulation(adaptive)
    if net.shared_modulation is not None:
        zero(net.shared_modulation)
    nn.init.zeros_(net.final_layer.linear.weight)


def reference_dit(net: Any, mlp_ratio: float, learn_sigma: bool = False) -> DiT:
    """DiT of another family's sizes, to which its cost is related; where it has two widths, of the first blocks."""
    channels, size, _ = net.shape
    return DiT(
        input_size=size,
        patch_size=net.patch_size,
        in_channels=channels,
        hidden_size=net.hidden_size,
        depth=net.wide_blocks,
        num_heads=net.num_heads,
        mlp_ratio=mlp_ratio,
        num_classes=net.num_classes,
        learn_sigma=learn_sigma,
    )


def check_sizes(input_size: int, patch_size: int, hidden_size: int, num_heads: int, depth: int) -> None:
    """Raises DiffxError where patches do not tile the input, heads do not divide the width, or there is no block."""
    if patch_size < 1 or input_size % patch_size:
        fits = [p for p in (1, 2, 4, 8, 16) if input_size % p == 0]
        raise DiffxError(
            f"backbone.patch_size={patch_size} does not divide the input of {input_size}x{input_size}; "
            f"type backbone.patch_size= one of {fits}."
        )
    if num_heads < 1 or hidden_size < 4 or hidden_size % num_heads or hidden_size % 4:
        fits = [h for h in range(1, 33) if hidden_size % h == 0 and hidden_size // h >= 16]
        raise DiffxError(
            f"backbone.hidden_size={hidden_size} cannot be split over backbone.num_heads={num_heads}; the width must "
            f"be a multiple of the heads and of 4: type backbone.num_heads= one of {fits}, or change the width."
        )
    if depth < 1:
        raise DiffxError(f"backbone.depth={depth} must be at least 1; type backbone.depth=12.")


def check_two_times(two_times: bool, summed: bool, conditioning: str) -> None:
    """Raises DiffxError where a second time would have no sum to go into."""
    if two_times and not summed:
        raise DiffxError(
            f"backbone.two_times=true sums both times with the label, which backbone.conditioning={conditioning} does "
            "not; type backbone.conditioning=adaln_zero."
        )


def check_options(conditionings: tuple[str, ...] = SUMMED, **chosen: str) -> None:
    """Raises DiffxError for a word that is no option of a block, or a conditioning that this family has not."""
    choices = {"position": POSITIONS, "norm": NORMS, "mlp": MLPS, "conditioning": conditionings}
    for name, value in chosen.items():
        if value in choices[name]:
            continue
        known = ", ".join(choices[name])
        if name == "conditioning" and value in BLOCKS:
            raise DiffxError(
                f"backbone.conditioning={value} is for the plain DiT, and this backbone is another one, which a plugin "
                f"may have brought; type backbone.conditioning= one of {known}."
            )
        raise DiffxError(f"backbone.{name}={value} is not known; type backbone.{name}= one of {known}.")
