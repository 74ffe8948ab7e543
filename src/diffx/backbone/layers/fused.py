"""Residual sum, gate, norm and modulation as one Triton kernel each way, for blocks with adaLN.

total = x + gate · branch and y = norm(total) · factor + shift, where factor = (1 + scale) · weight of the norm: of
these a call has the first, the second, or both. Tokens are read once and written once; all arithmetic is float32. The
backward pass sums the gradients of gate, factor and shift over tokens without atomic additions: each program adds up
ROWS tokens, and torch adds the parts, so that a step repeats bit for bit.

Against the plain operations under autocast, two roundings to bfloat16 are left out (1 + scale, gate · branch).
Tested through Triton's interpreter, and compiled for Hopper by its compiler; no GPU has run it.
"""

from functools import cache
from types import MethodType
from typing import Any

import torch
from torch import Tensor, nn

from diffx.backbone.layers.block import Block
from diffx.backbone.layers.modulation import rows
from diffx.errors import DiffxError

try:
    import triton
    import triton.language as tl
    from triton.language import constexpr
except ImportError:  # torch for CPUs comes without it
    triton = tl = constexpr = None

ROWS = 32  # tokens whose gradients of gate, factor and shift one program adds up


def check_fused(device: torch.device, blocks: nn.Module) -> None:
    """Raises DiffxError where there is no GPU, no Triton, or no block that the kernels are for."""
    if device.type != "cuda":
        raise DiffxError("trainer.fused=true is for GPUs; type trainer.fused=false.")
    if triton is None:
        raise DiffxError(
            "trainer.fused=true needs the package triton; type pip install triton, or trainer.fused=false."
        )
    if not _covered(blocks):
        raise DiffxError(
            "trainer.fused=true is for blocks with adaLN and a gate, and this backbone has none; "
            "type trainer.fused=false."
        )


def fuse_blocks(blocks: nn.Module) -> list[str]:
    """Make a backbone's blocks sum, normalise and modulate with the kernels, in place; the names of those blocks.

    Blocks of other kinds (post-norm, without gates, U-ViT's, MM-DiT's, PixArt's) and the head stay as they are.
    Parameters keep their names.
    """
    names = _covered(blocks)
    for name in names:
        block: Any = blocks.get_submodule(name)
        block.forward = MethodType(_forward, block)
    return names


def _covered(blocks: nn.Module) -> list[str]:
    return [name for name, block in blocks.named_modules() if type(block) is Block]


def _forward(
    block: Block,
    x: Tensor,
    cond: Tensor,
    ids: Tensor | None = None,
    remembered: Tensor | None = None,
    attention: list[Tensor] | None = None,
    values: list[Tensor] | None = None,
) -> Tensor:
    """As Block.forward."""
    x, (shift_a, scale_a, gate_a, shift_m, scale_m, gate_m) = block.begin(x, cond, remembered)
    branch = block.attn(norm_modulate(x, block.norm1, shift_a, scale_a), ids, attention, values)
    x, inner = gated_norm_modulate(x, gate_a, branch, block.norm2, shift_m, scale_m)
    return gated_sum(x, gate_m, block.mlp(inner))


def norm_modulate(x: Tensor, norm: nn.Module, shift: Tensor, scale: Tensor) -> Tensor:
    """modulate(norm(x), shift, scale) for x (B, N, D); shift and scale (B, D), or (B, N, D) for each token. norm: a
    LayerNorm or an RMSNorm. In autocast the result is of autocast's type, as which a product would read it."""
    return _fused(x, None, None, norm, shift, scale)[1]


def gated_norm_modulate(
    x: Tensor, gate: Tensor, branch: Tensor, norm: nn.Module, shift: Tensor, scale: Tensor
) -> tuple[Tensor, Tensor]:
    """The sum x + gate · branch, of x's type, and norm_modulate of it."""
    return _fused(x, gate, branch, norm, shift, scale)


def gated_sum(x: Tensor, gate: Tensor, branch: Tensor) -> Tensor:
    """x + gate · branch for x and branch (B, N, D); gate (B, D) or (B, N, D). Of x's type."""
    return gate_norm_modulate(x.contiguous(), branch.contiguous(), _flat(gate), None, None, 0.0, False, x.dtype)[0]


def _fused(
    x: Tensor, gate: Tensor | None, branch: Tensor | None, norm: Any, shift: Tensor, scale: Tensor
) -> tuple[Tensor, Tensor]:
    kind, factor, shift = x.device.type, 1 + scale.float(), shift.float()
    if getattr(norm, "bias", None) is not None:
        shift = shift + factor * norm.bias.float()
    if norm.weight is not None:
        factor = factor * norm.weight.float()
    dtype = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else x.dtype
    total, y, _, _ = gate_norm_modulate(
        x.contiguous(),
        None if branch is None else branch.contiguous(),
        None if gate is None else _flat(gate),
        _flat(factor),
        _flat(shift),
        norm.eps,
        isinstance(norm, nn.LayerNorm),
        dtype,
    )
    return total, y


def _flat(modulation: Tensor) -> Tensor:
    return rows(modulation.float()).contiguous()


@torch.library.custom_op("diffx::gate_norm_modulate", mutates_args=())
def gate_norm_modulate(
    x: Tensor,
    branch: Tensor | None,
    gate: Tensor | None,
    factor: Tensor | None,
    shift: Tensor | None,
    eps: float,
    centred: bool,
    dtype: torch.dtype,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """total as x, y of dtype, and the mean and 1 / deviation of each token (B, N); empty is what was not asked for.

    x, branch (B, N, D); gate, factor, shift (B, 1 or N, D) in float32; all contiguous.
    """
    outputs = _empty_outputs(x, branch, gate, factor, shift, eps, centred, dtype)
    width, each = x.shape[-1], _tokens_each(gate if factor is None else factor, x)
    _launcher(_forward_kernel)[(x.numel() // width,)](
        x, branch, gate, factor, shift, *outputs, each, width, eps,
        BLOCK=_block(width), GATED=branch is not None, NORMED=factor is not None, CENTRED=centred,
    )  # fmt: skip
    return outputs


@gate_norm_modulate.register_fake
def _empty_outputs(
    x: Tensor,
    branch: Tensor | None,
    gate: Tensor | None,
    factor: Tensor | None,
    shift: Tensor | None,
    eps: float,
    centred: bool,
    dtype: torch.dtype,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    total = torch.empty_like(x) if branch is not None else x.new_empty(0)
    if factor is None:
        return total, x.new_empty(0), x.new_empty(0, dtype=torch.float32), x.new_empty(0, dtype=torch.float32)
    mean, deviation = (x.new_empty(x.shape[:-1], dtype=torch.float32) for _ in range(2))
    return total, torch.empty_like(x, dtype=dtype), mean, deviation


@torch.library.custom_op("diffx::gate_norm_modulate_backward", mutates_args=())
def gate_norm_modulate_backward(
    d_total: Tensor | None,
    d_y: Tensor | None,
    total: Tensor,
    branch: Tensor | None,
    gate: Tensor | None,
    factor: Tensor | None,
    mean: Tensor,
    deviation: Tensor,
    centred: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Gradients of x and branch, of their types, and of gate, factor and shift (B, 1 or N, D), in float32; empty is
    that of what was not given. d_total is None where the sum is not asked for, d_y where y is not."""
    dx, d_branch, d_gate, d_factor, d_shift = _empty_gradients(
        d_total, d_y, total, branch, gate, factor, mean, deviation, centred
    )
    width, modulations = total.shape[-1], gate if factor is None else factor
    assert modulations is not None
    each = _tokens_each(modulations, total)
    groups, parts = total.numel() // width // each, -(-each // ROWS)
    sums = [total.new_empty(groups, parts, width if one.numel() else 0, dtype=torch.float32)
            for one in (d_gate, d_factor, d_shift)]  # fmt: skip
    _launcher(_backward_kernel)[(groups, parts)](
        d_total, d_y, total, branch, gate, factor, mean, deviation, dx, d_branch, *sums, each, width,
        ROWS=ROWS, BLOCK=_block(width), GATED=branch is not None, NORMED=factor is not None, CENTRED=centred,
    )  # fmt: skip
    d_gate, d_factor, d_shift = (
        part.sum(1).view_as(one) for part, one in zip(sums, (d_gate, d_factor, d_shift), strict=True)
    )
    return dx, d_branch, d_gate, d_factor, d_shift


@gate_norm_modulate_backward.register_fake
def _empty_gradients(
    d_total: Tensor | None,
    d_y: Tensor | None,
    total: Tensor,
    branch: Tensor | None,
    gate: Tensor | None,
    factor: Tensor | None,
    mean: Tensor,
    deviation: Tensor,
    centred: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    d_branch, d_gate, d_factor, d_shift = (
        mean.new_empty(0) if one is None else torch.empty_like(one) for one in (branch, gate, factor, factor)
    )
    return torch.empty_like(total), d_branch, d_gate, d_factor, d_shift


def _save(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    x, branch, gate, factor, _, _, ctx.centred, _ = inputs
    total, _, mean, deviation = output
    # A sum alone needs no tokens in the backward pass but the branch's; the kernel then reads the type of this alone.
    kept = x if branch is None else total
    ctx.save_for_backward(kept, branch, gate, factor, mean, deviation)


def _differentiate(ctx: Any, d_total: Tensor, d_y: Tensor, *_: Tensor) -> tuple[Tensor | None, ...]:
    total, branch, gate, factor, mean, deviation = ctx.saved_tensors
    gated, normed = branch is not None, factor is not None
    dx, d_branch, d_gate, d_factor, d_shift = gate_norm_modulate_backward(
        d_total.contiguous() if gated else None,
        d_y.contiguous() if normed else None,
        total, branch, gate, factor, mean, deviation, ctx.centred,
    )  # fmt: skip
    of_gate = (d_branch, d_gate) if gated else (None, None)
    of_norm = (d_factor, d_shift) if normed else (None, None)
    return (dx, *of_gate, *of_norm, None, None, None)


gate_norm_modulate.register_autograd(_differentiate, setup_context=_save)


def _tokens_each(modulations: Tensor | None, x: Tensor) -> int:
    """How many tokens one vector of modulations is for: all of a sample, or one."""
    assert modulations is not None
    return 1 if modulations.shape[1] == x.shape[1] else x.shape[1]


def _block(width: int) -> int:
    return 1 << (width - 1).bit_length()


@cache
def _launcher(kernel: Any) -> Any:
    """Compiled at the first call, not at import: a machine may have no Triton, and TRITON_INTERPRET is read here."""
    return triton.jit(kernel)


def _forward_kernel(  # type: ignore[no-untyped-def]
    x, branch, gate, factor, shift, total, y, mean, deviation, each, width, eps,
    BLOCK: constexpr, GATED: constexpr, NORMED: constexpr, CENTRED: constexpr,
):  # fmt: skip
    """One token a program."""
    row = tl.program_id(0).to(tl.int64)
    columns = tl.arange(0, BLOCK)
    here = columns < width
    place, group = row * width + columns, row // each * width + columns
    tokens = tl.load(x + place, mask=here, other=0.0).to(tl.float32)
    if GATED:
        added = tl.load(branch + place, mask=here, other=0.0).to(tl.float32)
        tokens += tl.load(gate + group, mask=here, other=0.0) * added
        rounded = tokens.to(total.dtype.element_ty)
        tl.store(total + place, rounded, mask=here)
        tokens = rounded.to(tl.float32)  # what the norm of the plain operations reads
    if NORMED:
        if CENTRED:
            middle = tl.sum(tokens, axis=0) / width
            tl.store(mean + row, middle)
            tokens = tl.where(here, tokens - middle, 0.0)
        inverse = 1.0 / tl.sqrt(tl.sum(tokens * tokens, axis=0) / width + eps)
        tl.store(deviation + row, inverse)
        scaled = tokens * inverse * tl.load(factor + group, mask=here, other=0.0)
        shifted = scaled + tl.load(shift + group, mask=here, other=0.0)
        tl.store(y + place, shifted.to(y.dtype.element_ty), mask=here)


def _backward_kernel(  # type: ignore[no-untyped-def]
    d_total, d_y, total, branch, gate, factor, mean, deviation, dx, d_branch, gate_sums, factor_sums, shift_sums,
    each, width, ROWS: constexpr, BLOCK: constexpr,
    GATED: constexpr, NORMED: constexpr, CENTRED: constexpr,
):  # fmt: skip
    """ROWS tokens of one vector of modulations a program, one after the other."""
    which, part = tl.program_id(0).to(tl.int64), tl.program_id(1)
    columns = tl.arange(0, BLOCK)
    here = columns < width
    group = which * width + columns
    of_gate = tl.zeros([BLOCK], tl.float32)
    of_factor = tl.zeros([BLOCK], tl.float32)
    of_shift = tl.zeros([BLOCK], tl.float32)
    first = part * ROWS
    for token in range(first, tl.minimum(first + ROWS, each)):
        row = which * each + token
        place = row * width + columns
        gradient = tl.zeros([BLOCK], tl.float32)
        if GATED:
            gradient = tl.load(d_total + place, mask=here, other=0.0).to(tl.float32)
        if NORMED:
            of_y = tl.load(d_y + place, mask=here, other=0.0).to(tl.float32)
            normed = tl.load(total + place, mask=here, other=0.0).to(tl.float32)
            inverse = tl.load(deviation + row)
            if CENTRED:
                normed = tl.where(here, normed - tl.load(mean + row), 0.0)
            normed *= inverse
            of_factor += of_y * normed
            of_shift += of_y
            of_normed = of_y * tl.load(factor + group, mask=here, other=0.0)
            inward = of_normed - normed * (tl.sum(of_normed * normed, axis=0) / width)
            if CENTRED:
                inward -= tl.sum(of_normed, axis=0) / width
            gradient += inward * inverse
        if GATED:
            added = tl.load(branch + place, mask=here, other=0.0).to(tl.float32)
            of_gate += gradient * added
            of_branch = gradient * tl.load(gate + group, mask=here, other=0.0)
            tl.store(d_branch + place, of_branch.to(d_branch.dtype.element_ty), mask=here)
        tl.store(dx + place, gradient.to(dx.dtype.element_ty), mask=here)
    sums = (which * tl.num_programs(1) + part) * width + columns
    if GATED:
        tl.store(gate_sums + sums, of_gate, mask=here)
    if NORMED:
        tl.store(factor_sums + sums, of_factor, mask=here)
        tl.store(shift_sums + sums, of_shift, mask=here)
