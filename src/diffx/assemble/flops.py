"""Floating-point operations of a step, counted by torch on tensors without storage."""

import copy
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils._pytree import tree_map_only
from torch.utils.flop_counter import FlopCounterMode

from diffx.assemble.services import stand_ins
from diffx.backbone import Backbone
from diffx.backbone.protocol import state_shape
from diffx.backbone.teacher import NetworkTeacher
from diffx.backbone.text import blank_condition
from diffx.end_to_end import EndToEnd
from diffx.errors import DiffxError, describe_error, name_culprit
from diffx.objective import Objective
from diffx.planner import Plan, View
from diffx.plugin import Plugin
from diffx.step import Draws, draw, losses
from diffx.streams import Streams

IMAGES = 32
"""Counted at once: of one image a share of the samples rounds to all or none, and losses across samples are nothing."""


class Flops(NamedTuple):
    """Floating-point operations per image; a multiply-add counts two.

    plain: forward of the plain network of this size (Backbone.reference). forward: forward of all passes with the
    plugins. train: forward and backward of a step, teachers included. encoder: the teachers' share of it. autoencoder:
    the share of one that is trained with the network.
    """

    plain: int
    forward: int
    train: int
    encoder: int
    autoencoder: int = 0

    @property
    def relative(self) -> float:
        """Forward cost relative to the plain network."""
        return self.forward / self.plain


def count_flops(
    backbone: Backbone,
    plugins: Mapping[str, Plugin],
    objective: Objective,
    plan: Plan,
    encoder_flops: Mapping[str, int],
) -> Flops:
    """Count one step, per image. encoder_flops: by service name, those of one image through a teacher.

    Raises:
        DiffxError: a plugin fails in it; the sentence names it.
    """
    on_meta = without_storage({"backbone": backbone, **{f"plugins/{name}": p for name, p in plugins.items()}})
    net, members = on_meta["backbone"], {name: on_meta[f"plugins/{name}"] for name in plugins}
    try:
        counts = [_count(net, members, objective, fixed) for fixed in _fixed_counts(plan)]
    except DiffxError:
        raise
    except Exception as error:
        name = name_culprit(error, members)
        who = f"plugins.{name}" if name else f"The set of plugins [{', '.join(plugins)}]"
        raise DiffxError(f"{who} failed in a step: {describe_error(error)}.") from error
    forward, train, teaching = (sum(column) // len(counts) for column in zip(*counts, strict=True))
    with torch.device("meta"):
        plain = backbone.reference() if backbone.reference() is not backbone else net
    encoder = sum(encoder_flops.get(need, 0) for need in plan.needs) + teaching
    return Flops(_forward_flops(plain, objective), forward, train + encoder, encoder)


def _count(net: Backbone, plugins: Mapping[str, Plugin], objective: Objective, plan: Plan) -> tuple[int, int, int]:
    """Forward, forward and backward, and teachers among the run's own networks."""
    with sdpa_kernel(SDPBackend.MATH):
        with FlopCounterMode(display=False) as teaching:
            draws = _fake_draws(net, plugins, objective, plan)
        draws = tree_map_only(Tensor, lambda tensor: tensor.to("meta"), draws)
        with FlopCounterMode(display=False) as forward, torch.no_grad():
            losses(net, plan, plugins, objective, draws)
        with FlopCounterMode(display=False) as train:
            losses(net, plan, plugins, objective, draws)["total"].backward()
    forward_count, train_count, teaching_count = (
        counter.get_total_flops() // IMAGES for counter in (forward, train, teaching)
    )
    return forward_count, train_count, teaching_count


def _forward_flops(net: Any, objective: Objective) -> int:
    """One forward of a network on meta, per image."""
    with torch.device("meta"), sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter, torch.no_grad():
        net(torch.zeros(1, *state_shape(net)), torch.zeros(1), blank_condition(net, 1))
    return counter.get_total_flops()


def count_end_to_end(
    end_to_end: EndToEnd,
    backbone: Backbone,
    plugins: Mapping[str, Plugin],
    objective: Objective,
    plan: Plan,
    image_size: int,
) -> int:
    """What training the autoencoder adds to a step, per image: its passes, its losses, and the frozen network's."""
    prefixed = {f"plugins/{name}": plugin for name, plugin in plugins.items()}
    on_meta = without_storage({"end_to_end": end_to_end, "backbone": backbone, **prefixed})
    members = {name: on_meta[f"plugins/{name}"] for name in plugins}
    net, component = on_meta["backbone"], on_meta["end_to_end"]
    draws = tree_map_only(Tensor, lambda t: t.to("meta"), _fake_draws(net, members, objective, _fixed_counts(plan)[0]))
    image = torch.zeros(1, 3, 1, 1, dtype=torch.uint8, device="meta").expand(IMAGES, -1, image_size, image_size)
    with torch.device("meta"):
        batch = {"image": image, "y": blank_condition(net, IMAGES)}
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        _, encoded = component.encode(batch, Streams(0, 0))
        component.losses(encoded, draws, net, members, objective)["total"].backward()
    return counter.get_total_flops() // IMAGES


def _fixed_counts(plan: Plan) -> list[Plan]:
    """The plan with each of the counts that a rate drawn every step can give; one that is fixed gives itself."""
    most = max((len(counts) for view in plan.views for counts in view.kept.values()), default=1)

    def fix(view: View, choice: int) -> View:
        return replace(view, kept={name: (counts[choice % len(counts)],) for name, counts in view.kept.items()})

    return [replace(plan, views=tuple(fix(view, choice) for view in plan.views)) for choice in range(most)]


def _fake_draws(net: Backbone, plugins: Mapping[str, Plugin], objective: Objective, plan: Plan) -> Draws:
    """Draws for IMAGES images, with zeros in place of what the data and the teachers would give."""
    batch: dict[str, Any] = {"x": torch.zeros(IMAGES, *net.shape), "y": blank_condition(net, IMAGES)}
    batch["image"] = torch.zeros(IMAGES, 3, 1, 1, dtype=torch.uint8).expand(-1, -1, *net.shape[1:])
    for stream, key in plan.streams.items():
        batch[key] = torch.zeros(IMAGES, *net.streams[stream])
    services = {name: _on_meta(service) for name, service in stand_ins(plan.needs, net).items()}
    return draw(net, plan, plugins, objective, batch, services, Streams(0, 0), 0.0)


def _on_meta(service: Callable[..., Any]) -> Callable[..., Any]:
    """A network's stand-in runs without storage, and gives zeros as the other draws have them."""
    if not isinstance(service, NetworkTeacher):
        return service

    def teach(*given: Any) -> Tensor:
        return torch.zeros(service(*tree_map_only(Tensor, lambda tensor: tensor.to("meta"), given)).shape)

    teach.takes = ()  # type: ignore[attr-defined]
    return teach


def without_storage(modules: Mapping[str, Any]) -> dict[str, Any]:
    """Copies of modules whose parameters and buffers are on meta; nothing is copied that has a size."""
    owned = nn.ModuleDict(dict(modules))
    tensors = [*owned.parameters(), *owned.buffers()]
    memo: dict[int, Any] = {}
    for tensor in tensors:
        empty = torch.empty_like(tensor, device="meta")
        trained = isinstance(tensor, nn.Parameter)
        memo[id(tensor)] = nn.Parameter(empty, requires_grad=tensor.requires_grad) if trained else empty
    return dict(copy.deepcopy(owned, memo).items())


def flops_of(service: Callable[..., Any], *given: Tensor) -> int:
    """Operations of one call of a teacher on one sample, such as an image (1, C, H, W)."""
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter, torch.no_grad():
        service(*given)
    return counter.get_total_flops()
