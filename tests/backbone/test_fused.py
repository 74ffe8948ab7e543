"""trainer.fused: the kernels in Triton's interpreter, on the CPU, against the plain operations."""

import copy

import pytest
import torch
from torch import Tensor, nn

from diffx.backbone.layers.block import Block, make_norm
from diffx.backbone.layers.fused import (
    check_fused,
    fuse_blocks,
    gate_norm_modulate,
    gated_norm_modulate,
    gated_sum,
    norm_modulate,
)
from diffx.backbone.layers.modulation import modulate, rows
from diffx.config.compose import compose_config
from diffx.errors import DiffxError
from diffx.testing import registered_backbones
from diffx.train.module import DiffusionModule

NORMS = ("layernorm", "rmsnorm", "scaled_rmsnorm")
SIZES = [((2, 3, 5), False), ((2, 3, 5), True), ((1, 5, 8), False)]  # and whether modulations are of each token
ROUNDING = {torch.float32: 2.0**-23, torch.bfloat16: 2.0**-8}


pytest.importorskip("triton")
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"  # tests/conftest.py sets TRITON_INTERPRET where there is no GPU


@pytest.fixture(autouse=True)
def two_tokens_a_part(monkeypatch: pytest.MonkeyPatch) -> None:
    """The interpreter takes some 10 ms a token."""
    monkeypatch.setattr("diffx.backbone.layers.fused.ROWS", 2)


def made_up(size: tuple[int, int, int], each: bool, dtype: torch.dtype) -> dict[str, Tensor]:
    batch, tokens, width = size
    modulation = (batch, tokens, 3 * width) if each else (batch, 3 * width)
    torch.manual_seed(0)
    gate, shift, scale = torch.randn(modulation).chunk(3, dim=-1)  # slices that are not contiguous, as in a block
    x, branch = torch.randn(size) + 1, torch.randn(size)
    made = {"x": x, "branch": branch, "gate": gate, "shift": shift, "scale": scale}
    return {name: value.to(DEVICE, dtype) for name, value in made.items()}


def norm_of(name: str, width: int) -> nn.Module:
    if name == "affine layernorm":
        norm: nn.Module = nn.LayerNorm(width, eps=1e-6)
    else:
        norm = make_norm(name, width)
    for parameter in norm.parameters():
        nn.init.normal_(parameter, 1.0)
    return norm


def plain_sum(x: Tensor, gate: Tensor, branch: Tensor) -> Tensor:
    return x + rows(gate) * branch


def results(given: dict[str, Tensor], norm: nn.Module, kernels: bool, exact: bool = False) -> dict[str, Tensor]:
    """A block's chain of three: norm, sum with norm, sum. Its outputs, and the gradients of all that goes in."""
    leaves = {name: (value.double() if exact else value).detach().requires_grad_() for name, value in given.items()}
    norm = copy.deepcopy(norm).to(DEVICE, torch.float64 if exact else next(iter(given.values())).dtype)
    x, branch, gate, shift, scale = leaves.values()
    if kernels:
        first = norm_modulate(x, norm, shift, scale)
        total, second = gated_norm_modulate(x, gate, branch * first, norm, shift, scale)
        last = gated_sum(total, gate, second)
    else:
        first = modulate(norm(x), shift, scale)
        total = plain_sum(x, gate, branch * first)
        second = modulate(norm(total), shift, scale)
        last = plain_sum(total, gate, second)
    outputs = {"first": first, "total": total, "second": second, "last": last}
    torch.manual_seed(1)
    loss = sum((value * torch.randn(value.shape, dtype=torch.float64).to(value)).sum() for value in outputs.values())
    assert isinstance(loss, Tensor)
    loss.backward()
    gradients = {f"d_{name}": leaf.grad for name, leaf in leaves.items()}
    weights = {f"d_norm.{name}": parameter.grad for name, parameter in norm.named_parameters()}
    return {name: value.detach().double() for name, value in (outputs | gradients | weights).items()}


def off(found: dict[str, Tensor], wanted: dict[str, Tensor]) -> dict[str, float]:
    return {name: float((found[name] - wanted[name]).norm() / (wanted[name].norm() + 1e-6)) for name in wanted}


@pytest.mark.parametrize("name", [*NORMS, "affine layernorm"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["float32", "bfloat16"])
def test_outputs_and_all_gradients_are_the_plain_operations(name: str, dtype: torch.dtype):
    """Measured from float64, in units of the type's rounding: a chain of four roundings, and of sums over tokens and
    channels in float32. The plain operations, which round each of theirs, are held to twice their own distance."""
    for size, each in SIZES:
        given, norm = made_up(size, each, dtype), norm_of(name, size[-1])
        wanted = results(given, norm, kernels=False, exact=True)
        ours, theirs = off(results(given, norm, kernels=True), wanted), off(results(given, norm, kernels=False), wanted)
        for value in wanted:
            assert ours[value] < max(8 * ROUNDING[dtype], 2 * theirs[value]), (value, size, each)


def test_a_token_alone_of_one_channel_is_normalised_as_ever():
    given, norm = made_up((1, 1, 1), False, torch.float32), norm_of("rmsnorm", 1)
    for name, value in results(given, norm, kernels=True).items():
        torch.testing.assert_close(value, results(given, norm, kernels=False)[name], atol=1e-5, rtol=1e-5)


def test_gradients_repeat_bit_for_bit():
    given, norm = made_up((1, 5, 8), False, torch.float32), norm_of("layernorm", 8)
    once, again = (results(given, norm, kernels=True) for _ in range(2))
    assert all(torch.equal(once[name], again[name]) for name in once)


def test_torch_finds_the_operator_sound():
    """Its schema, its outputs' shapes without storage, and its registered gradient."""
    given = made_up((1, 2, 5), False, torch.float32)
    x, branch = (given[name].requires_grad_() for name in ("x", "branch"))
    gate, factor, shift = (rows(given[name]).contiguous().requires_grad_() for name in ("gate", "scale", "shift"))
    for arguments in (
        (x, branch, gate, factor, shift, 1e-6, True, torch.float32),
        (x, None, None, factor, shift, 1e-6, True, torch.bfloat16),
        (x, branch, gate, None, None, 0.0, False, torch.float32),
    ):
        checks = ("test_schema", "test_autograd_registration", "test_faketensor")
        torch.library.opcheck(gate_norm_modulate, arguments, test_utils=checks)


def tiny_pair(norm: str) -> tuple[nn.Module, nn.Module]:
    torch.manual_seed(0)
    plain = Block(16, 2, 2, norm=norm).to(DEVICE)
    for parameter in plain.parameters():
        nn.init.normal_(parameter, 0.0, 0.3)
    kernels = copy.deepcopy(plain)
    assert fuse_blocks(nn.ModuleList([kernels])) == ["0"]
    return plain, kernels


def outputs_and_gradients(block: nn.Module, cond: Tensor, half: bool) -> list[Tensor]:
    torch.manual_seed(1)
    x = torch.randn(2, 4, 16).to(DEVICE).requires_grad_()
    with torch.autocast(DEVICE, torch.bfloat16, enabled=half):
        out = block(x, cond)
    out.square().mean().backward()
    return [out.detach(), x.grad, *(parameter.grad for parameter in block.parameters())]  # type: ignore[list-item]


@pytest.mark.parametrize(("norm", "each"), [*((norm, False) for norm in NORMS), ("layernorm", True)])
def test_a_block_is_the_plain_one_to_rounding(norm: str, each: bool):
    cond = torch.randn(*((2, 4) if each else (2,)), 16, generator=torch.Generator().manual_seed(2)).to(DEVICE)
    for half, least in ((False, 1e-5), (True, 3e-2)):  # some tens of roundings one after the other: 2**-23 and 2**-8
        plain, kernels = tiny_pair(norm)
        pairs = zip(outputs_and_gradients(kernels, cond, half), outputs_and_gradients(plain, cond, half), strict=True)
        for ours, theirs in pairs:
            assert ours.dtype == theirs.dtype
            assert (ours - theirs).norm() <= least * theirs.norm()


def test_a_compiled_block_is_one_graph():
    plain, kernels = tiny_pair("layernorm")
    cond = torch.randn(2, 16).to(DEVICE)
    kernels.forward = torch.compile(kernels.forward, fullgraph=True, dynamic=False, backend="aot_eager")
    for ours, theirs in zip(
        outputs_and_gradients(kernels, cond, False), outputs_and_gradients(plain, cond, False), strict=True
    ):
        torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-4)


def test_what_is_trained_has_the_kernels_and_its_average_has_not():
    module = DiffusionModule.of(registered_backbones()["dit"].tiny(), fused=True)
    assert all("forward" in vars(block) for block in module.backbone.blocks)
    assert not any("forward" in vars(block) for block in module.ema.blocks)
    assert module.backbone.state_dict().keys() == module.ema.state_dict().keys()


def test_a_machine_without_a_gpu_is_told_what_to_type():
    with pytest.raises(DiffxError, match=r"trainer\.fused=true is for GPUs; type trainer\.fused=false"):
        check_fused(torch.device("cpu"), nn.ModuleList())


def test_a_machine_without_triton_is_told_what_to_type(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("diffx.backbone.layers.fused.triton", None)
    with pytest.raises(DiffxError, match=r"needs the package triton; type pip install triton"):
        check_fused(torch.device("cuda"), nn.ModuleList())


def test_a_backbone_that_the_kernels_are_not_for_is_refused():
    with pytest.raises(DiffxError, match=r"this backbone has none; type trainer\.fused=false"):
        check_fused(torch.device("cuda"), registered_backbones()["uvit"].tiny().blocks)


def test_it_is_a_run_of_its_own_and_off_unless_told():
    plain, kernels = compose_config([]), compose_config(["trainer.fused=true"])
    assert (plain.trainer.fused, kernels.trainer.fused) == (False, True)
    assert plain.id != kernels.id
