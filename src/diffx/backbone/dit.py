"""The diffusion transformer of Peebles & Xie (arXiv 2212.09748), in three public parts: embed → blocks → head.

It knows nothing of training methods. Parameter names are those of facebookresearch/DiT, which SiT and REPA share.
Options that a method needs at sampling time too live here: MDT's decoder position, relative position bias and skips.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from diffx.backbone.modulation import BlockTable, HeadTable, SharedModulation
from diffx.backbone.position import RelativePositionBias, Rotary, add_position, sincos_table
from diffx.errors import DiffxError
from diffx.tokens import Tokens

Memory = dict[int, Tensor]  # depth -> tokens (B, N, D) that a later block takes through a skip

NORMS = ("layernorm", "rmsnorm")
MLPS = ("gelu", "swiglu")
POSITIONS = ("sincos", "learned", "rope")
CONDITIONINGS = ("adaln_zero", "adaln_single")


def modulate(x: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
    """x (B, N, D) scaled by 1 + scale (B, D) and shifted by shift (B, D)."""
    return torch.addcmul(shift.unsqueeze(1), x, 1 + scale.unsqueeze(1))


def make_norm(name: str, dim: int) -> nn.Module:
    """A normalisation without learned scale: adaLN supplies it."""
    if name == "rmsnorm":
        return nn.RMSNorm(dim, eps=1e-6, elementwise_affine=False)
    return nn.LayerNorm(dim, eps=1e-6, elementwise_affine=False)


class TimestepEmbedder(nn.Module):
    """Times t (B,) -> (B, D): 256 sinusoidal features [cos | sin] with period up to 10000, then a two-layer SiLU MLP.

    t is fed as the objective gives it: in [0, 1] for interpolants (SiT), an integer step for DDPM (DiT).
    """

    def __init__(self, hidden_size: int, frequencies: int = 256) -> None:
        super().__init__()
        self.frequencies = frequencies
        self.mlp = nn.Sequential(nn.Linear(frequencies, hidden_size), nn.SiLU(), nn.Linear(hidden_size, hidden_size))

    def forward(self, t: Tensor) -> Tensor:
        half = self.frequencies // 2
        omega = torch.exp(-math.log(10000) * torch.arange(half, dtype=torch.float32, device=t.device) / half)
        angle = t[:, None].float() * omega[None]
        features = torch.cat([angle.cos(), angle.sin()], dim=-1)
        return self.mlp(features.to(self.mlp[2].bias.dtype))  # type: ignore[arg-type]


class LabelEmbedder(nn.Module):
    """Labels y (B,) -> (B, D). Row `num_classes` is the null label; dropping labels is the training step's business."""

    def __init__(self, num_classes: int, hidden_size: int) -> None:
        super().__init__()
        self.embedding_table = nn.Embedding(num_classes + 1, hidden_size)

    def forward(self, y: Tensor) -> Tensor:
        return self.embedding_table(y)


class PatchEmbed(nn.Module):
    """Images or latents (B, C, H, W) -> tokens (B, N, D), row by row."""

    def __init__(self, patch_size: int, in_channels: int, hidden_size: int) -> None:
        super().__init__()
        self.proj = nn.Conv2d(in_channels, hidden_size, patch_size, stride=patch_size)

    def forward(self, x: Tensor) -> Tensor:
        # The residual stream keeps the memory layout it starts with, and norms are slow on one that is transposed.
        return self.proj(x).flatten(2).transpose(1, 2).contiguous()


class Attention(nn.Module):
    """Multi-head self-attention over the tokens present. Through SDPA, on its flash path unless a bias is asked for."""

    def __init__(self, dim: int, heads: int, side: int, qk_norm: bool, rotary: bool, relative_bias: bool) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(dim, 3 * dim)
        self.q_norm = nn.RMSNorm(dim // heads, eps=1e-6) if qk_norm else nn.Identity()
        self.k_norm = nn.RMSNorm(dim // heads, eps=1e-6) if qk_norm else nn.Identity()
        self.rotary = Rotary(side, dim // heads) if rotary else None
        self.rel_pos_bias = RelativePositionBias(side, heads) if relative_bias else None
        self.proj = nn.Linear(dim, dim)

    def forward(self, x: Tensor, ids: Tensor | None) -> Tensor:
        q, k, v = self.qkv(x).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4).unbind(0)
        q, k = self.q_norm(q), self.k_norm(k)
        if self.rotary is not None:
            q, k = self.rotary(q, ids), self.rotary(k, ids)
        bias = None if self.rel_pos_bias is None else self.rel_pos_bias(ids).to(q.dtype)
        out = F.scaled_dot_product_attention(q, k, v, attn_mask=bias)
        return self.proj(out.transpose(1, 2).flatten(2))


class Mlp(nn.Module):
    """Two layers with a tanh-approximated GELU."""

    def __init__(self, dim: int, hidden: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(dim, hidden)
        self.fc2 = nn.Linear(hidden, dim)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(F.gelu(self.fc1(x), approximate="tanh"))


class SwiGLU(nn.Module):
    """Gated MLP w3(SiLU(w1 x) · w2 x), 2/3 as wide, which keeps the plain MLP's parameters (Shazeer 2020)."""

    def __init__(self, dim: int, hidden: int) -> None:
        super().__init__()
        hidden = int(2 * hidden / 3)
        self.w12 = nn.Linear(dim, 2 * hidden)
        self.w3 = nn.Linear(hidden, dim)

    def forward(self, x: Tensor) -> Tensor:
        gate, value = self.w12(x).chunk(2, dim=-1)
        return self.w3(F.silu(gate) * value)


class Block(nn.Module):
    """A transformer block with adaLN: cond gives shift, scale and gate of attention and of the MLP.

    cond is (B, D), of which the block makes them with a layer of its own, or (B, 7D) with shared_modulation.

    With `skip`, the block first merges a remembered state: x <- Linear([x, remembered]) (U-ViT's skip, as in MDTv2).
    """

    def __init__(
        self,
        dim: int,
        heads: int,
        side: int,
        *,
        mlp_ratio: float = 4.0,
        norm: str = "layernorm",
        mlp: str = "gelu",
        qk_norm: bool = False,
        rotary: bool = False,
        relative_bias: bool = False,
        shared_modulation: bool = False,
        skip: bool = False,
    ) -> None:
        super().__init__()
        self.norm1 = make_norm(norm, dim)
        self.attn = Attention(dim, heads, side, qk_norm, rotary, relative_bias)
        self.norm2 = make_norm(norm, dim)
        self.mlp = (SwiGLU if mlp == "swiglu" else Mlp)(dim, int(dim * mlp_ratio))
        own = BlockTable(dim) if shared_modulation else nn.Sequential(nn.SiLU(), nn.Linear(dim, 6 * dim))
        self.adaLN_modulation: nn.Module = own
        self.skip_linear = nn.Linear(2 * dim, dim) if skip else None

    def forward(self, x: Tensor, cond: Tensor, ids: Tensor | None = None, remembered: Tensor | None = None) -> Tensor:
        if self.skip_linear is not None:
            assert remembered is not None
            x = self.skip_linear(torch.cat([x, remembered], dim=-1))
        shift_a, scale_a, gate_a, shift_m, scale_m, gate_m = self.adaLN_modulation(cond).chunk(6, dim=1)
        # Not addcmul: on a GPU in autocast it would keep a float32 copy of each branch for the backward pass.
        x = x + gate_a.unsqueeze(1) * self.attn(modulate(self.norm1(x), shift_a, scale_a), ids)
        return x + gate_m.unsqueeze(1) * self.mlp(modulate(self.norm2(x), shift_m, scale_m))


class FinalLayer(nn.Module):
    """Tokens (B, N, D) -> patches (B, N, p·p·C), each in the order row, column, channel."""

    def __init__(self, dim: int, patch_size: int, out_channels: int, norm: str, shared_modulation: bool) -> None:
        super().__init__()
        self.norm_final = make_norm(norm, dim)
        self.linear = nn.Linear(dim, patch_size * patch_size * out_channels)
        own = HeadTable(dim) if shared_modulation else nn.Sequential(nn.SiLU(), nn.Linear(dim, 2 * dim))
        self.adaLN_modulation: nn.Module = own

    def forward(self, x: Tensor, cond: Tensor) -> Tensor:
        shift, scale = self.adaLN_modulation(cond).chunk(2, dim=1)
        return self.linear(modulate(self.norm_final(x), shift, scale))


class DiT(nn.Module):
    """A class-conditional diffusion transformer on a square grid.

    input_size: height and width of x. patch_size: side of a patch. learn_sigma: 2C output channels instead of C.
    position: "sincos" (fixed), "learned" (starts as sincos) or "rope". norm: "layernorm" | "rmsnorm".
    mlp: "gelu" | "swiglu". qk_norm: RMSNorm on queries and keys. relative_bias: MDT's relative position bias.
    decoder_layers: the last so many blocks are a decoder, before which a second position embedding is added (MDT).
    conditioning: "adaln_zero", a modulation layer in every block, or "adaln_single", one for all (PixArt).
    skips: MDTv2's long skips between the halves of the encoder and its input skips into every decoder block.

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
        relative_bias: bool = False,
        decoder_layers: int = 0,
        skips: bool = False,
        conditioning: str = "adaln_zero",
    ) -> None:
        super().__init__()
        _check_sizes(input_size, patch_size, hidden_size, num_heads, depth, decoder_layers, skips)
        _check_choice("position", position, POSITIONS)
        _check_choice("norm", norm, NORMS)
        _check_choice("mlp", mlp, MLPS)
        _check_choice("conditioning", conditioning, CONDITIONINGS)
        shared = conditioning == "adaln_single"
        self.input_size, self.patch_size, self.in_channels = input_size, patch_size, in_channels
        self.hidden_size, self.num_heads, self.num_classes = hidden_size, num_heads, num_classes
        self.out_channels = 2 * in_channels if learn_sigma else in_channels
        self.side = input_size // patch_size
        self.decoder_start = depth - decoder_layers if decoder_layers else None
        self.skips = _skip_sources(depth, decoder_layers) if skips else {}
        self._block_options = {
            "mlp_ratio": mlp_ratio,
            "norm": norm,
            "mlp": mlp,
            "qk_norm": qk_norm,
            "rotary": position == "rope",
            "relative_bias": relative_bias,
            "shared_modulation": shared,
        }

        self.x_embedder = PatchEmbed(patch_size, in_channels, hidden_size)
        self.t_embedder = TimestepEmbedder(hidden_size)
        self.y_embedder = LabelEmbedder(num_classes, hidden_size)
        self.shared_modulation = SharedModulation(hidden_size) if shared else None
        if position != "rope":
            self.pos_embed = nn.Parameter(self._fresh_position(), requires_grad=position == "learned")
        if decoder_layers:
            self.decoder_pos_embed = nn.Parameter(self._fresh_position(), requires_grad=position == "learned")
        self.blocks = nn.ModuleList(self.new_block(skip=d in self.skips) for d in range(depth))
        self.final_layer = FinalLayer(hidden_size, patch_size, self.out_channels, norm, shared)
        self._initialise()

    @property
    def num_tokens(self) -> int:
        return self.side * self.side

    @property
    def null_label(self) -> int:
        """The label that stands for "no class"."""
        return self.num_classes

    def new_block(self, skip: bool = False) -> Block:
        """A block like those of this backbone, freshly initialised (the identity)."""
        block = Block(self.hidden_size, self.num_heads, self.side, skip=skip, **self._block_options)  # type: ignore[arg-type]
        _initialise_linears(block)
        _zero_modulation(block.adaLN_modulation)
        return block

    def embed(self, x: Tensor, t: Tensor, y: Tensor) -> tuple[Tokens, Tensor]:
        """x (B, C, H, W), t (B,), y (B,) -> all tokens (B, N, D) and the conditioning (B, D), or (B, 7D) if shared."""
        tokens = self.x_embedder(x)
        if hasattr(self, "pos_embed"):
            tokens = tokens + self.pos_embed
        cond = self.t_embedder(t) + self.y_embedder(y)
        return Tokens(tokens), cond if self.shared_modulation is None else self.shared_modulation(cond)

    def new_memory(self, tokens: Tokens) -> Memory:
        """What skips carry at the start of a forward: the embedded tokens where a block takes them, else nothing."""
        return {0: tokens.x} if 0 in self.skips.values() else {}

    def run_block(self, depth: int, tokens: Tokens, cond: Tensor, memory: Memory) -> Tokens:
        """Block `depth` on the tokens present; `memory` holds, within one forward, the states that skips carry."""
        x = tokens.x
        if depth == self.decoder_start:
            x = add_position(x, self.decoder_pos_embed, tokens.ids)
        remembered = memory[self.skips[depth]] if depth in self.skips else None
        x = self.blocks[depth](x, cond, tokens.ids, remembered)
        if depth + 1 in self.skips.values():
            memory[depth + 1] = x
        return Tokens(x, tokens.ids)

    def head(self, tokens: Tokens, cond: Tensor) -> Tensor:
        """All tokens -> the prediction (B, C or 2C, H, W)."""
        p, side = self.patch_size, self.side
        patches = self.final_layer(tokens.x, cond).unflatten(1, (side, side)).unflatten(3, (p, p, -1))
        return patches.permute(0, 5, 1, 3, 2, 4).reshape(-1, self.out_channels, side * p, side * p)

    def forward(self, x: Tensor, t: Tensor, y: Tensor) -> Tensor:
        """The prediction (B, C or 2C, H, W) for noised x (B, C, H, W) at times t (B,) with labels y (B,)."""
        tokens, cond = self.embed(x, t, y)
        memory = self.new_memory(tokens)
        for depth in range(len(self.blocks)):
            tokens = self.run_block(depth, tokens, cond, memory)
        return self.head(tokens, cond)

    def _fresh_position(self) -> Tensor:
        return sincos_table(self.hidden_size, self.side)[None].to(self.x_embedder.proj.weight.device)

    def _initialise(self) -> None:
        """DiT's initialisation; every residual branch and the output start at zero."""
        _initialise_linears(self)
        weight = self.x_embedder.proj.weight
        nn.init.xavier_uniform_(weight.view(weight.shape[0], -1))
        nn.init.zeros_(self.x_embedder.proj.bias)  # type: ignore[arg-type]
        nn.init.normal_(self.y_embedder.embedding_table.weight, std=0.02)
        nn.init.normal_(self.t_embedder.mlp[0].weight, std=0.02)  # type: ignore[arg-type]
        nn.init.normal_(self.t_embedder.mlp[2].weight, std=0.02)  # type: ignore[arg-type]
        for adaptive in [*self.blocks, self.final_layer]:
            _zero_modulation(adaptive.adaLN_modulation)
        if self.shared_modulation is not None:
            _zero_modulation(self.shared_modulation)
        nn.init.zeros_(self.final_layer.linear.weight)


def _initialise_linears(module: nn.Module) -> None:
    for linear in module.modules():
        if isinstance(linear, nn.Linear):
            nn.init.xavier_uniform_(linear.weight)
            if linear.bias is not None:
                nn.init.zeros_(linear.bias)


def _zero_modulation(modulation: nn.Module) -> None:
    for parameter in modulation.parameters():
        nn.init.zeros_(parameter)


def _skip_sources(depth: int, decoder_layers: int) -> dict[int, int]:
    """Block -> the depth whose state it merges: the encoder's second half takes the first half's outputs, last in first
    out; every decoder block takes the embedded input (MDTv2)."""
    encoder = depth - decoder_layers
    half = encoder // 2
    long = {half + j: half - j for j in range(half)}
    return long | dict.fromkeys(range(encoder, depth), 0)


def _check_sizes(
    input_size: int, patch_size: int, hidden_size: int, num_heads: int, depth: int, decoder_layers: int, skips: bool
) -> None:
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
    if depth < 1 or not 0 <= decoder_layers < depth:
        raise DiffxError(
            f"backbone.decoder_layers={decoder_layers} does not fit backbone.depth={depth}; "
            f"type a number from 0 to {max(depth - 1, 0)}."
        )
    if skips and (not decoder_layers or (depth - decoder_layers) % 2):
        raise DiffxError(
            f"backbone.skips=true needs an even encoder and a decoder, got depth={depth} with "
            f"decoder_layers={decoder_layers}; type for instance backbone.decoder_layers={2 if depth % 2 == 0 else 1}."
        )


def _check_choice(name: str, value: str, choices: tuple[str, ...]) -> None:
    if value not in choices:
        raise DiffxError(f"backbone.{name}={value} is not known; type backbone.{name}= one of {', '.join(choices)}.")
