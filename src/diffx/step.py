"""One training step: draw what is random, walk the tokens through the blocks, add up the losses.

`draw` is eager and holds everything random and every teacher; `losses` is pure and can be compiled as one graph.
"""

from collections.abc import Callable, Collection, Mapping
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor

from diffx.backbone import Backbone
from diffx.backbone.protocol import Condition, RunBlock, pack, unpack, walk, where_dropped
from diffx.errors import DiffxError, naming
from diffx.objective import Averaging, Objective
from diffx.planner import MAIN, Plan, Plugins, View
from diffx.plugin import Aux, Batch, Plugin, Seen
from diffx.streams import Streams
from diffx.tokens import Tokens, random_subset, with_extra, without_extra

Services = Mapping[str, Callable[..., Any]]
"""By need. A service with an attribute `takes`, batch keys, is called with them once a step for all plugins; with none
it is handed to prepare() as it is. Without that attribute it takes the image."""


class Draws(NamedTuple):
    """All that a step needs beside the weights.

    x: the clean state, (B, C, H, W) or packed. t: (B,) times, shared by the views. noise, y: by view, shaped as x, and
    the condition after dropping. aux: by plugin, what its retime() and prepare() returned. r: (B,) times below t, where
    the objective is about what lies between the two.
    """

    x: Tensor
    t: Tensor
    noise: dict[str, Tensor]
    y: dict[str, Condition]
    aux: dict[str, Aux]
    r: Tensor | None = None


@torch.no_grad()
def draw(
    backbone: Backbone,
    plan: Plan,
    plugins: Plugins,
    objective: Objective,
    batch: Batch,
    services: Services,
    streams: Streams,
    label_dropout: float,
) -> Draws:
    """Draw times, noise, dropped labels and masks, and run the teachers that some plugin needs, each once.

    label_dropout: share of samples whose condition is replaced by the backbone's null, anew in each view (MDT).
    """
    batch = batch | _serve(plan, batch, services)
    x = _state(backbone, plan, batch, streams)
    times, r = streams.own("times"), None
    if isinstance(objective, Averaging):
        t, r = objective.intervals(len(x), times)
    else:
        t = objective.times(len(x), times)
    noise, labels, aux = {}, {}, {}
    null = backbone.null_condition(batch["y"])
    for view in plan.views:
        rng = streams.own(f"{view.name}/noise")
        noise[view.name] = torch.randn(x.shape, generator=rng, device=x.device, dtype=x.dtype)
        dropped = torch.rand(len(x), generator=streams.own(f"{view.name}/labels"), device=x.device) < label_dropout
        labels[view.name] = where_dropped(dropped, null, batch["y"])
    for view in plan.views:
        rngs = {name: streams.own(f"plugins/{name}") for name, p in plugins.items() if p.view == view.name}
        if view.couples:
            with naming(view.couples, "in couple()"):
                noise[view.name] = plugins[view.couples].couple(x, noise[view.name], rngs[view.couples])
        retimed: Aux = {}
        if view.retimes:
            with naming(view.retimes, "in retime()"):
                retimed = plugins[view.retimes].retime(t, rngs[view.retimes])
        own_t = retimed.get("times", t)
        for name, rng in rngs.items():
            plugin = plugins[name]
            drawn = {"t": own_t, "noise": noise[view.name], "label": labels[view.name]}
            own: Aux = retimed if name == view.retimes else {}
            given = batch | own | {"x": x} | _asked(backbone, plugin, objective, x, drawn)
            with naming(name, "in prepare()"):
                aux[name] = own | plugin.prepare(given, rng)
            if name in view.entering and "keep" not in aux[name]:
                aux[name] = aux[name] | {"keep": _draw_kept(view, name, len(x), streams, rng)}
    return Draws(x, t, noise, labels, aux, r)


def _serve(plan: Plan, batch: Batch, services: Services) -> Batch:
    """What teachers make of the batch, where it has not come with it."""
    served = {}
    for need in plan.needs:
        if need in services and need not in batch:
            takes = getattr(services[need], "takes", ("image",))
            served[need] = services[need](*(batch[key] for key in takes)) if takes else services[need]
    return served


def _state(backbone: Backbone, plan: Plan, batch: Batch, streams: Streams) -> Tensor:
    """The clean state: the image or latent, and beside it what plugins bring for the backbone's other streams."""
    x = batch["x"]
    if "x_std" in batch:  # latents: a new draw from the autoencoder's posterior every time
        posterior = torch.randn(x.shape, generator=streams.own("posterior"), device=x.device, dtype=x.dtype)
        x = x + batch["x_std"] * posterior
    return pack({name: x if name == "image" else batch[plan.streams[name]] for name in backbone.streams})


def _asked(backbone: Backbone, plugin: Plugin, objective: Objective, x: Tensor, drawn: Batch) -> Batch:
    """Of what the pass has drawn, that which the plugin needs."""
    t = token_map(backbone.side, drawn["t"], x)
    made = {
        "noisy": lambda: objective.noised(x, drawn["noise"], t),
        "target": lambda: objective.target(x, drawn["noise"], t),
    }
    return {need: drawn[need] if need in drawn else made[need]() for need in plugin.needs if need in {*drawn, *made}}


def _draw_kept(view: View, name: str, batch: int, streams: Streams, rng: torch.Generator) -> Tensor:
    """Positions (B, kept) that stay in a span: of the grid at random, and all extra tokens."""
    counts, extra = view.kept[name], view.extra.get(name, 0)
    kept = counts[0]
    if len(counts) > 1:
        kept = counts[int(torch.randint(len(counts), (), generator=streams.shared(f"plugins/{name}/rate")))]
    grid = view.entering[name] - extra
    return with_extra(random_subset(batch, grid, kept - extra, rng), grid, extra)


def token_map(side: int, t: Tensor, x: Tensor) -> Tensor:
    """Times as objectives take them: (B,) as they are; of each token (B, N) as a map (B, 1, H, W) over the image."""
    if t.ndim == 1:
        return t
    patch = x.shape[-1] // side
    grid = t.unflatten(1, (1, side, side))
    return grid.repeat_interleave(patch, 2).repeat_interleave(patch, 3)


def fed(objective: Objective, side: int, x: Tensor, noise: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
    """What a network on a grid of side² is fed at times t (B,) or (B, N): the noised state and its times, as t is."""
    times = token_map(side, t, x)
    x_in, t_in = objective.inputs(objective.noised(x, noise, times), times)
    if t.ndim == 2:  # back from the map over the image to one of each token
        patch = x.shape[-1] // side
        t_in = t_in[:, 0, ::patch, ::patch].flatten(1)
    return x_in, t_in


class PluginPassage:
    """What the plugins of a view do to the tokens on their way, and what each of them sees."""

    def __init__(self, view: View, plugins: Plugins, aux: Mapping[str, Aux]) -> None:
        self.view, self.plugins, self.aux = view, plugins, aux
        self.attends: Collection[int] = view.attends
        self.saved: dict[str, Tokens] = {}
        self.seen: dict[str, Seen] = {name: {} for name in plugins}

    def arrive(self, depth: int, tokens: Tokens, cond: Tensor) -> Tokens:
        for kind, name in self.view.actions[depth]:
            if kind == "restore":
                tokens = self.plugins[name].restore(tokens, self.saved[name], cond, self.aux[name])
            elif kind == "read":
                extra = 0 if self.plugins[name].reads_extra else self.view.behind[depth]
                self.seen[name][depth] = without_extra(tokens, extra)
        return tokens

    def depart(self, depth: int, tokens: Tokens, cond: Tensor) -> Tokens:
        for kind, name in self.view.actions[depth]:
            if kind == "save":
                self.saved[name] = tokens
            elif kind == "drop":
                tokens = self.plugins[name].drop(tokens, self.aux[name])
        return tokens

    def through(self, depth: int, run: RunBlock, tokens: Tokens, cond: Tensor) -> Tokens:
        name = self.view.wraps.get(depth)
        if name is None:
            return run(tokens, cond)
        return self.plugins[name].around(depth, run, tokens, cond, self.aux[name])

    def attended(self, depth: int, queries_and_keys: tuple[Tensor, Tensor]) -> None:
        for name, plugin in self.plugins.items():
            if depth in plugin.attends:
                self.seen[name]["attention", depth] = queries_and_keys


def walk_with_plugins(
    backbone: Backbone, view: View, plugins: Plugins, x_t: Tensor, t: Tensor, y: Condition, aux: Mapping[str, Aux]
) -> tuple[Tensor, dict[str, Seen]]:
    """The prediction for a noised state, and by plugin what it has seen: the tokens that it reads, by depth.

    With no plugin these are the operations of backbone.forward, one for one.
    """
    passage = PluginPassage(view, plugins, aux)
    return walk(backbone, x_t, t, y, passage), passage.seen


def losses(backbone: Backbone, plan: Plan, plugins: Plugins, objective: Objective, draws: Draws) -> dict[str, Tensor]:
    """All terms as scalars: "denoise" (and "masked/denoise" of other views), each plugin's unweighted loss by its name,
    and "total", the sum of the views' denoising losses and of λ times each plugin's loss."""
    terms: dict[str, Tensor] = {}
    total = torch.zeros((), device=draws.x.device)
    for view in plan.views:
        members = {name: plugin for name, plugin in plugins.items() if plugin.view == view.name}
        out, seen = _predict(backbone, view, members, objective, draws)
        denoise = _denoise(backbone, view, members, objective, draws, out)
        terms["denoise" if view.name == MAIN else f"{view.name}/denoise"] = denoise
        total = total + denoise
        for name, plugin in members.items():
            value = plugin.loss(seen[name], out, draws.aux[name])
            if value is not None:
                named = value if isinstance(value, dict) else {"": value}
                _check_names(name, named, plugin)
                for part, weight in plugin.weights().items():
                    terms[f"{name}/{part}" if part else name] = named[part]
                    total = total + weight * named[part]
    return terms | {"total": total}


def _times(view: View, draws: Draws) -> Tensor:
    """(B,), or (B, N) where a plugin of the view gives each token its own."""
    return draws.aux[view.retimes]["times"] if view.retimes else draws.t


def _predict(
    backbone: Backbone, view: View, members: Plugins, objective: Objective, draws: Draws
) -> tuple[Tensor, dict[str, Seen]]:
    x_in, t_in = fed(objective, backbone.side, draws.x, draws.noise[view.name], _times(view, draws))
    if draws.r is not None:
        t_in = torch.stack([t_in, draws.r], dim=1)
    return walk_with_plugins(backbone, view, members, x_in, t_in, draws.y[view.name], draws.aux)


def _denoise(
    backbone: Backbone, view: View, members: Plugins, objective: Objective, draws: Draws, out: Tensor
) -> Tensor:
    """The denoising loss of the image. Other streams are the business of the plugin that brings them."""
    t = token_map(backbone.side, _times(view, draws), draws.x)
    out_image, x, noise = (
        unpack(part, backbone.streams)["image"] for part in (out.float(), draws.x, draws.noise[view.name])
    )
    if draws.r is not None:
        return _deviation(backbone, view, objective, draws, draws.r, out_image)
    if view.weighs is None and view.retimes is None:
        return objective.loss(out_image, x, noise, t).mean()
    errors = objective.errors(out_image, x, noise, t).mean(1, keepdim=True)
    weights = members[view.weighs].visible(draws.aux[view.weighs]) if view.weighs else None
    if weights is None:
        return errors.mean()
    return ((errors * weights).flatten(1).sum(1) / weights.flatten(1).sum(1)).mean()


def _deviation(backbone: Backbone, view: View, objective: Objective, draws: Draws, r: Tensor, out: Tensor) -> Tensor:
    """The loss of an objective that makes its target with the network: with the plain one, whatever plugins do."""
    if view.weighs:
        raise DiffxError(
            f"plugins.{view.weighs} weighs the error of each pixel, and this objective that of each sample; leave "
            f"plugins.{view.weighs} out, or type objective=linear."
        )
    averaging, y = cast(Averaging, objective), draws.y[view.name]
    null = backbone.null_condition(y)
    average = averaging.average(backbone, draws.x, draws.noise[view.name], draws.t, r, y, null)
    return averaging.deviation(out, average).mean()


def _check_names(name: str, named: Mapping[str, Tensor], plugin: Plugin) -> None:
    if named.keys() != plugin.initial_weights.keys():
        raise DiffxError(
            f"plugins.{name}: loss() gives {sorted(named)} and weight has {sorted(plugin.initial_weights)}; both need "
            "the same names."
        )
