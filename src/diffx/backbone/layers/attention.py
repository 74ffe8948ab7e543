"""Multi-head attention over the tokens present, and of them to what conditions them."""

from contextlib import nullcontext

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from diffx.backbone.layers.position import RelativePositionBias, Rotary

BIASED = [SDPBackend.EFFICIENT_ATTENTION, SDPBackend.MATH]
"""Kernels for attention with a bias. cuDNN's is left out: its backward pass can give NaN with one (pytorch#196678)."""


class Attention(nn.Module):
    """Through SDPA, on its flash path unless a bias is asked for.

    extra: tokens that stand behind the grid of side² and have no place in it. extent: as of Rotary. bias: of queries,
    keys and values. value_residual: it mixes the values of an earlier block into its own, λ v₀ + (1 − λ) v with one
    learned λ that starts at a half (Zhou et al. 2024, arXiv 2410.17897).
    """

    def __init__(
        self,
        dim: int,
        heads: int,
        side: int,
        qk_norm: bool,
        rotary: bool,
        relative_bias: bool = False,
        extra: int = 0,
        extent: float | None = None,
        bias: bool = True,
        value_residual: bool = False,
    ) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(dim, 3 * dim, bias=bias)
        self.q_norm = nn.RMSNorm(dim // heads, eps=1e-6) if qk_norm else nn.Identity()
        self.k_norm = nn.RMSNorm(dim // heads, eps=1e-6) if qk_norm else nn.Identity()
        self.rotary = Rotary(side, dim // heads, extra, extent) if rotary else None
        self.rel_pos_bias = RelativePositionBias(side, heads) if relative_bias else None
        self.value_mix = nn.Parameter(torch.tensor([0.5])) if value_residual else None  # FSDP shards no scalars
        self.proj = nn.Linear(dim, dim)

    def forward(
        self,
        x: Tensor,
        ids: Tensor | None,
        attention: list[Tensor] | None = None,
        values: list[Tensor] | None = None,
    ) -> Tensor:
        """x (B, N, D) at places ids (B, N), None for all in order. Queries and keys (B, H, N, d), as the product sees
        them, are appended to `attention` where one is given. values: holds those (B, N, D) of an earlier block, of the
        same tokens, for value_residual; where there is none, this block's own are appended."""
        q, k, v = self.project(x)
        if self.rotary is not None:
            q, k = self.rotary(q, ids), self.rotary(k, ids)
        if attention is not None:
            attention += [q, k]
        if values is not None and not values:
            values.append(v.transpose(1, 2).flatten(2))
        if self.value_mix is not None and values:
            first = values[0].to(v.dtype).unflatten(2, (self.heads, -1)).transpose(1, 2)
            mix = self.value_mix.to(v.dtype)
            v = mix * first + (1 - mix) * v
        bias = None if self.rel_pos_bias is None else self.rel_pos_bias(ids).to(q.dtype)
        return self.proj(attend(q, k, v, bias).transpose(1, 2).flatten(2))

    def project(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Queries, keys and values (B, H, N, d) of tokens (B, N, D), the first two normalised."""
        q, k, v = (part.unflatten(-1, (self.heads, -1)).transpose(1, 2) for part in self.qkv(x).chunk(3, dim=-1))
        return self.q_norm(q), self.k_norm(k), v


class CrossAttention(nn.Module):
    """Tokens attend to vectors that are no tokens, such as the embeddings of time and label, or of a text."""

    def __init__(self, dim: int, heads: int, qk_norm: bool = False) -> None:
        super().__init__()
        self.heads = heads
        self.q, self.kv = nn.Linear(dim, dim), nn.Linear(dim, 2 * dim)
        self.q_norm = nn.RMSNorm(dim // heads, eps=1e-6) if qk_norm else nn.Identity()
        self.k_norm = nn.RMSNorm(dim // heads, eps=1e-6) if qk_norm else nn.Identity()
        self.proj = nn.Linear(dim, dim)

    def forward(self, x: Tensor, context: Tensor, mask: Tensor | None = None) -> Tensor:
        """x (B, N, D), context (B, M, D) -> (B, N, D). mask (B, M): true for what may be attended to."""
        q = self.q(x).unflatten(-1, (self.heads, -1)).transpose(1, 2)
        k, v = self.kv(context).unflatten(-1, (2, self.heads, -1)).permute(2, 0, 3, 1, 4).unbind(0)
        out = attend(self.q_norm(q), self.k_norm(k), v, None if mask is None else mask[:, None, None])
        return self.proj(out.transpose(1, 2).flatten(2))


def attend(q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None = None) -> Tensor:
    """SDPA of queries, keys and values (B, H, N, d), with a bias on the logits, or a mask of booleans, that
    broadcasts to (B, H, N, M)."""
    with sdpa_kernel(BIASED) if bias is not None and q.is_cuda else nullcontext():
        return F.scaled_dot_product_attention(q, k, v, attn_mask=bias)
