"""The planner: plugins declare, this turns the declarations into a static table and refuses sets that cannot work."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import NamedTuple

from diffx.backbone.dit import DiT
from diffx.errors import DiffxError
from diffx.plugin import Plugin, Span

MAIN = "main"


class Action(NamedTuple):
    """What happens between two blocks: kind is "restore", "read", "save" or "drop"."""

    kind: str
    plugin: str


@dataclass(frozen=True)
class View:
    """One pass over the batch. actions[d] happens before block d; tokens[d] enter block d (the head for d = depth;
    the mean where a rate varies).

    entering[p] tokens are present where plugin p drops; one of the counts kept[p] stays, drawn each step.
    """

    name: str
    actions: tuple[tuple[Action, ...], ...]
    tokens: tuple[int, ...]
    entering: Mapping[str, int]
    kept: Mapping[str, tuple[int, ...]]


@dataclass(frozen=True)
class Plan:
    """The views in the order they run ("main" first) and all batch keys and services that somebody needs."""

    views: tuple[View, ...]
    needs: tuple[str, ...]


def make_plan(backbone: DiT, plugins: Mapping[str, Plugin], provided: Collection[str]) -> Plan:
    """The static table of a run. `provided`: the batch keys and services. Raises DiffxError for impossible sets."""
    for name, plugin in plugins.items():
        _check_declaration(name, plugin, len(backbone.blocks))
        _check_needs(name, plugin, provided)
    names = dict.fromkeys([MAIN, *(p.view for p in plugins.values())])
    views = tuple(_lay_out(view, backbone, {n: p for n, p in plugins.items() if p.view == view}) for view in names)
    needs = dict.fromkeys(need for plugin in plugins.values() for need in plugin.needs)
    return Plan(views, tuple(needs))


def _lay_out(name: str, backbone: DiT, plugins: Mapping[str, Plugin]) -> View:
    """Walk the depths once with token counts in place of tokens."""
    active: list[str] = []  # spans entered and not left, outermost first
    saved: dict[str, tuple[str, ...]] = {}  # which spans were active where a plugin saved
    present: list[int] = [backbone.num_tokens]
    entering: dict[str, int] = {}
    kept: dict[str, tuple[int, ...]] = {}
    actions, tokens, inside = [], [], []
    for depth in range(len(backbone.blocks) + 1):
        row = []
        for plugin in _leaving(depth, active, plugins):
            active.pop()
            present.pop()
            row.append(Action("restore", plugin))
        row += [Action("read", n) for n, p in plugins.items() if depth in p.reads]
        spans = {n: p.span for n, p in plugins.items() if p.span is not None}
        for plugin in [n for n, s in spans.items() if s.saved_at == depth and s.start != depth]:
            saved[plugin] = tuple(active)
            row.append(Action("save", plugin))
        # Of spans that start together the longest is the outer one.
        for plugin in sorted((n for n, s in spans.items() if s.start == depth), key=lambda n: -spans[n].stop):
            _check_saved(plugin, saved.get(plugin, tuple(active)), tuple(active))
            _check_outer(plugin, [n for n in active if len(kept[n]) > 1])
            entering[plugin] = present[-1]
            kept[plugin] = _count_kept(plugin, spans[plugin], present[-1])
            if spans[plugin].saved_at == depth:
                row.append(Action("save", plugin))
            row.append(Action("drop", plugin))
            active.append(plugin)
            present.append(round(sum(kept[plugin]) / len(kept[plugin])))
        actions.append(tuple(row))
        tokens.append(present[-1])
        inside.append(tuple(active))
    _check_skips(backbone, inside)
    return View(name, tuple(actions), tuple(tokens), entering, kept)


def _leaving(depth: int, active: list[str], plugins: Mapping[str, Plugin]) -> list[str]:
    """The spans that end at `depth`, innermost first; they must be the innermost ones."""
    ends = [n for n in active if plugins[n].span.stop == depth]  # type: ignore[union-attr]
    innermost = active[len(active) - len(ends) :]
    for outer, inner in zip(ends, innermost, strict=True):
        if outer != inner:
            _refuse_crossing(outer, inner, plugins)
    return ends[::-1]


def _refuse_crossing(outer: str, inner: str, plugins: Mapping[str, Plugin]) -> None:
    a, b = plugins[outer].span, plugins[inner].span
    assert a is not None
    assert b is not None
    raise DiffxError(
        f"plugins.{outer} and plugins.{inner} cross: {outer} narrows blocks {a.start} to {a.stop - 1} and {inner} "
        f"blocks {b.start} to {b.stop - 1} of the same pass. Spans must nest or be disjoint: end plugins.{inner} "
        f"at or before block {a.stop - 1}, or start it at block {a.stop}."
    )


def _check_saved(name: str, before: tuple[str, ...], now: tuple[str, ...]) -> None:
    if before != now:
        other = next(iter(set(before) ^ set(now)))
        raise DiffxError(
            f"plugins.{name} saves its state outside and drops inside the span of plugins.{other} (or the reverse); "
            f"both must see the same tokens: move plugins.{name} so that its save and its start lie on one side."
        )


def _check_outer(name: str, varying: list[str]) -> None:
    if varying:
        raise DiffxError(
            f"plugins.{name} narrows inside the span of plugins.{varying[0]}, whose number of tokens changes "
            f"from step to step; give plugins.{varying[0]} one fixed rate."
        )


def _count_kept(name: str, span: Span, present: int) -> tuple[int, ...]:
    kept = span.kept(present)
    if min(kept) < 1:
        raise DiffxError(
            f"plugins.{name} would keep {min(kept)} of {present} tokens at its rate of {span.rate}; "
            "type a smaller rate."
        )
    return kept


def _check_declaration(name: str, plugin: Plugin, depth: int) -> None:
    for read in plugin.reads:
        if not 0 <= read <= depth:
            raise DiffxError(
                f"plugins.{name} reads before block {read}, outside the backbone of {depth} blocks; "
                f"type a depth from 0 to {depth}."
            )
    span = plugin.span
    if span is not None:
        if not 0 <= span.saved_at <= span.start < span.stop <= depth:
            raise DiffxError(
                f"plugins.{name} narrows blocks {span.start} to {span.stop - 1} (state kept from "
                f"{span.saved_at}), which is not a range inside the backbone's blocks 0 to {depth - 1}; "
                "change its start or end."
            )
        if not all(0 <= rate < 1 for rate in span.rates):
            raise DiffxError(f"plugins.{name} drops a share of {span.rate} of the tokens; type a share in [0, 1).")
    if not plugin.has_loss and any(plugin.initial_weights.values()):
        raise DiffxError(f"plugins.{name}.weight is set, but this plugin adds no loss; remove the weight.")


def _check_needs(name: str, plugin: Plugin, provided: Collection[str]) -> None:
    for need in plugin.needs:
        if need not in provided:
            raise DiffxError(
                f"plugins.{name} needs {need!r}, which nobody provides; "
                f"there are: {', '.join(sorted(provided)) or 'none'}."
            )


def _check_skips(backbone: DiT, inside: list[tuple[str, ...]]) -> None:
    """A skip must join tokens of one set: what it carries was stored before the spans of its depth were entered."""
    for block, source in backbone.skips.items():
        stored = inside[source - 1] if source else ()
        if stored != inside[block]:
            name = next(iter(set(stored) ^ set(inside[block])))
            raise DiffxError(
                f"plugins.{name} narrows the tokens between block {max(source - 1, 0)} and block {block}, which a "
                f"skip of the backbone joins; type backbone.skips=false or end plugins.{name} inside."
            )
