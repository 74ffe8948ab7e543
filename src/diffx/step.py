"""One training step: draw what is random, walk the tokens through the blocks, add up the losses.

`draw` is eager and holds everything random and every teacher; `losses` is pure and can be compiled as one graph.
"""

from collections.abc import Callable, Mapping
from typing import NamedTuple

import torch
from torch import Tensor

from diffx.backbone.dit import DiT
from diffx.errors import DiffxError
from diffx.objective import Objective
from diffx.planner import MAIN, Plan, View
from diffx.plugin import Aux, Batch, Plugin
from diffx.streams import Streams
from diffx.tokens import Tokens, random_subset

Plugins = Mapping[str, Plugin]
Services = Mapping[str, Callable[[Tensor], Tensor]]


class Draws(NamedTuple):
    """All that a step needs beside the weights.

    x: (B, C, H, W) clean data. t: (B,) times, shared by the views. noise, y: by view, (B, C, H, W) and (B,).
    aux: by plugin, what its prepare() returned.
    """

    x: Tensor
    t: Tensor
    noise: dict[str, Tensor]
    y: dict[str, Tensor]
    aux: dict[str, Aux]


@torch.no_grad()
def draw(
    plan: Plan,
    plugins: Plugins,
    objective: Objective,
    batch: Batch,
    services: Services,
    streams: Streams,
    label_dropout: float,
    null_label: int,
) -> Draws:
    """Draw times, noise, dropped labels and masks, and run the teachers that some plugin needs, each once.

    label_dropout: share of labels replaced by `null_label`, anew in each view (MDT).
    """
    x, y = batch["x"], batch["y"]
    if "x_std" in batch:  # latents: a new draw from the autoencoder's posterior every time
        posterior = torch.randn(x.shape, generator=streams.own("posterior"), device=x.device, dtype=x.dtype)
        x = x + batch["x_std"] * posterior
    t = objective.times(len(x), streams.own("times"))
    noise, labels, aux = {}, {}, {}
    for view in plan.views:
        noise[view.name] = torch.randn(
            x.shape, generator=streams.own(f"{view.name}/noise"), device=x.device, dtype=x.dtype
        )
        dropped = torch.rand(len(y), generator=streams.own(f"{view.name}/labels"), device=y.device) < label_dropout
        labels[view.name] = torch.where(dropped, null_label, y)
    for need in plan.needs:
        if need in services and need not in batch:
            batch = batch | {need: services[need](batch["image"])}
    for view in plan.views:
        for name, plugin in plugins.items():
            if plugin.view == view.name:
                rng = streams.own(f"plugins/{name}")
                aux[name] = plugin.prepare(batch, rng)
                if name in view.entering and "keep" not in aux[name]:
                    kept = _choose(view.kept[name], streams.shared(f"plugins/{name}/rate"))
                    aux[name] = aux[name] | {"keep": random_subset(len(x), view.entering[name], kept, rng)}
    return Draws(x, t, noise, labels, aux)


def _choose(counts: tuple[int, ...], rng: torch.Generator) -> int:
    """One of the counts, drawn uniformly where there are several."""
    return counts[0] if len(counts) == 1 else counts[int(torch.randint(len(counts), (), generator=rng))]


def walk(
    backbone: DiT, view: View, plugins: Plugins, x_t: Tensor, t: Tensor, y: Tensor, aux: Mapping[str, Aux]
) -> tuple[Tensor, dict[str, dict[int, Tokens]]]:
    """The prediction (B, C, H, W) for noised x_t, and by plugin the tokens that it reads, by depth.

    With no plugin these are the operations of backbone.forward, one for one.
    """
    tokens, cond = backbone.embed(x_t, t, y)
    memory = backbone.new_memory(tokens)
    saved: dict[str, Tokens] = {}
    seen: dict[str, dict[int, Tokens]] = {name: {} for name in plugins}
    for depth, actions in enumerate(view.actions):
        for kind, name in actions:
            if kind == "restore":
                tokens = plugins[name].restore(tokens, saved[name], cond, aux[name])
            elif kind == "read":
                seen[name][depth] = tokens
            elif kind == "save":
                saved[name] = tokens
            else:
                tokens = plugins[name].drop(tokens, aux[name])
        if depth < len(backbone.blocks):
            tokens = backbone.run_block(depth, tokens, cond, memory)
    return backbone.head(tokens, cond), seen


def losses(backbone: DiT, plan: Plan, plugins: Plugins, objective: Objective, draws: Draws) -> dict[str, Tensor]:
    """All terms as scalars: "denoise" (and "masked/denoise" of other views), each plugin's unweighted loss by its name,
    and "total", the sum of the views' denoising losses and of λ times each plugin's loss."""
    terms: dict[str, Tensor] = {}
    total = torch.zeros((), device=draws.x.device)
    for view in plan.views:
        members = {name: plugin for name, plugin in plugins.items() if plugin.view == view.name}
        noise = draws.noise[view.name]
        x_in, t_in = objective.inputs(objective.noised(draws.x, noise, draws.t), draws.t)
        out, seen = walk(backbone, view, members, x_in, t_in, draws.y[view.name], draws.aux)
        denoise = objective.loss(out.float(), draws.x, noise, draws.t).mean()
        terms["denoise" if view.name == MAIN else f"{view.name}/denoise"] = denoise
        total = total + denoise
        for name, plugin in members.items():
            value = plugin.loss(seen[name], out, draws.aux[name])
            if value is not None:
                named = value if isinstance(value, dict) else {"": value}
                if named.keys() != plugin.initial_weights.keys():
                    raise DiffxError(
                        f"plugins.{name}: loss() gives {sorted(named)} and weight has "
                        f"{sorted(plugin.initial_weights)}; both need the same names."
                    )
                for part, weight in plugin.weights().items():
                    terms[f"{name}/{part}" if part else name] = named[part]
                    total = total + weight * named[part]
    return terms | {"total": total}
