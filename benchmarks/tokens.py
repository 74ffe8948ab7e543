"""What routing itself costs: gathers and scatters by sorted or shuffled ids, and blocks by the number of tokens."""

from collections.abc import Callable
from dataclasses import asdict
from typing import Any

import torch
from torch import Tensor

from benchmarks.measure import in_turn, seconds_of, speed_ratio
from diffx.backbone import Backbone
from diffx.tokens import Tokens, keep, random_subset, scatter

TOKENS = 256
KEPT = 128
LENGTHS = (
    128,
    176,
    179,
    180,
    192,
    256,
)  # 179 is what MDT's ratio of 0.3 leaves of 256; most others are multiples of 16


def route(x: Tensor, ids: Tensor) -> Callable[[], None]:
    """A token set narrowed and restored, forward and backward."""
    x = x.detach().requires_grad_()
    gradient = torch.ones_like(x)

    def once() -> None:
        narrow = keep(Tokens(x), ids)
        scatter(x, ids, narrow.x).backward(gradient)

    return once


def pass_through(backbone: Backbone, x: Tensor, cond: Tensor, half: bool) -> Callable[[], None]:
    """A block, forward and backward."""
    x = x.detach().requires_grad_()

    def once() -> None:
        with torch.autocast(x.device.type, torch.bfloat16, enabled=half):
            out = backbone.blocks[0](x, cond)
        out.sum().backward()

    return once


def measure(
    backbone: Backbone, batch_size: int, half: bool, device: torch.device, rounds: int, calls: int
) -> dict[str, dict[str, Any]]:
    """Speeds as ratios: shuffled ids over sorted ones, and a block on K tokens, for each token, over all of them."""
    rng = torch.Generator(device).manual_seed(0)
    ordered = random_subset(batch_size, TOKENS, KEPT, rng)
    shuffled = ordered.gather(1, torch.rand(ordered.shape, generator=rng, device=device).argsort(dim=1))
    x = torch.randn(batch_size, TOKENS, backbone.hidden_size, device=device)
    cond = torch.randn(batch_size, backbone.hidden_size, device=device)
    calling = {"sorted": route(x, ordered), "shuffled": route(x, shuffled)}
    for length in LENGTHS:
        calling[str(length)] = pass_through(backbone, x[:, :length].contiguous(), cond, half)
    for call in calling.values():
        seconds_of(call, 2, device)
    seconds = in_turn({name: lambda call=c: seconds_of(call, calls, device) for name, c in calling.items()}, rounds)  # type: ignore[misc]
    for length in LENGTHS:
        seconds[str(length)] = [time / length for time in seconds[str(length)]]
    ids = {name: asdict(speed_ratio(seconds["sorted"], seconds[name])) for name in ("sorted", "shuffled")}
    full = seconds[str(TOKENS)]
    return {"ids": ids, "lengths": {str(k): asdict(speed_ratio(full, seconds[str(k)])) for k in LENGTHS}}
