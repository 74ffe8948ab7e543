"""Floating-point operations of a step, counted by torch on tensors without storage."""

import copy
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils._pytree import tree_map_only
from torch.utils.flop_counter import FlopCounterMode

from diffx.backbone.dit import DiT
from diffx.frozen.encoder import encoder_spec
from diffx.objective import Objective
from diffx.planner import Plan
from diffx.plugin import Plugin
from diffx.step import Draws, draw, losses
from diffx.streams import Streams


class Flops(NamedTuple):
    """Floating-point operations per image; a multiply-add counts two. Counted by torch on tensors without storage.

    plain: forward of the backbone alone. forward: forward of all passes with the plugins. train: forward and backward
    of a step, teachers included. encoder: the teachers' share of it.
    """

    plain: int
    forward: int
    train: int
    encoder: int

    @property
    def relative(self) -> float:
        """Forward cost relative to the plain backbone."""
        return self.forward / self.plain


def count_flops(
    backbone: DiT, plugins: Mapping[str, Plugin], objective: Objective, plan: Plan, encoder_flops: Mapping[str, int]
) -> Flops:
    """Count one step on one image. encoder_flops: by service name, those of one image through a teacher."""
    model = copy.deepcopy(nn.ModuleDict({"backbone": backbone, **{f"plugins/{n}": p for n, p in plugins.items()}}))
    model = model.to("meta")
    on_meta: dict[str, Plugin] = {name: model[f"plugins/{name}"] for name in plugins}  # type: ignore[misc]
    net: DiT = model["backbone"]  # type: ignore[assignment]
    draws = _fake_draws(backbone, plugins, objective, plan)
    draws = tree_map_only(Tensor, lambda tensor: tensor.to("meta"), draws)
    with sdpa_kernel(SDPBackend.MATH):
        with FlopCounterMode(display=False) as plain, torch.no_grad():
            net(draws.x, draws.t, draws.y["main"])
        with FlopCounterMode(display=False) as forward, torch.no_grad():
            losses(net, plan, on_meta, objective, draws)
        with FlopCounterMode(display=False) as train:
            losses(net, plan, on_meta, objective, draws)["total"].backward()
    encoder = sum(encoder_flops.get(need, 0) for need in plan.needs)
    return Flops(plain.get_total_flops(), forward.get_total_flops(), train.get_total_flops() + encoder, encoder)


def _fake_draws(backbone: DiT, plugins: Mapping[str, Plugin], objective: Objective, plan: Plan) -> Draws:
    """Draws for one image, with zeros in place of what the data and the teachers would give."""
    size = backbone.input_size
    batch = {"x": torch.zeros(1, backbone.in_channels, size, size), "y": torch.zeros(1, dtype=torch.long)}
    batch["image"] = torch.zeros(1, 3, size, size, dtype=torch.uint8)
    for need in plan.needs:
        if need not in batch:
            batch[need] = torch.zeros(1, backbone.num_tokens, encoder_spec(need.removeprefix("features/")).dim)
    views = [replace(v, kept={n: (round(sum(k) / len(k)),) for n, k in v.kept.items()}) for v in plan.views]
    plan = replace(plan, views=tuple(views))  # a count that varies from step to step enters with its mean
    return draw(plan, plugins, objective, batch, {}, Streams(0, 0), 0.0, backbone.null_label)


def flops_of(service: Callable[[Tensor], Tensor], image: Tensor) -> int:
    """Operations of one call of a teacher on one image (1, C, H, W)."""
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter, torch.no_grad():
        service(image)
    return counter.get_total_flops()
