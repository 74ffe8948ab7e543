"""The planner: plugins declare, this turns the declarations into a static table and refuses sets that cannot work."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from diffx.backbone import Backbone
from diffx.errors import DiffxError
from diffx.plugin import DRAWN, Span
from diffx.refusals import (
    Plugins,
    check_attended,
    check_declaration,
    check_joined,
    check_needs,
    check_outer,
    check_saved,
    check_skips,
    check_width,
    only_one,
    refuse_crossing,
    say_backbone,
)

MAIN = "main"


class Action(NamedTuple):
    """What happens between two blocks: kind is "restore", "read", "switch" (the backbone's own), "save" or "drop"."""

    kind: str
    plugin: str = ""


@dataclass(frozen=True)
class View:
    """One pass over the batch. actions[d] happens before block d; tokens[d] enter block d (the head for d = depth;
    the mean where a rate varies).

    entering[p] tokens are present where plugin p drops; one of the counts kept[p] stays, drawn each step, the extra[p]
    that stand behind the grid among them. behind[d]: as many of the tokens that are read before block d stand there.
    attends: blocks whose queries and keys somebody wants. wraps[d]: the plugin around block d. couples: the plugin that
    chooses the noise of each sample. retimes: that gives each token a time. weighs: that weighs the error.
    """

    name: str
    actions: tuple[tuple[Action, ...], ...]
    tokens: tuple[int, ...]
    entering: Mapping[str, int]
    kept: Mapping[str, tuple[int, ...]]
    extra: Mapping[str, int] = field(default_factory=dict)
    behind: tuple[int, ...] = ()
    attends: frozenset[int] = frozenset()
    wraps: Mapping[int, str] = field(default_factory=dict)
    couples: str | None = None
    retimes: str | None = None
    weighs: str | None = None


@dataclass(frozen=True)
class Plan:
    """The views in the order they run ("main" first) and all batch keys and services that somebody needs. streams: the
    batch key of each stream of the state beside the image."""

    views: tuple[View, ...]
    needs: tuple[str, ...]
    streams: Mapping[str, str] = field(default_factory=dict)


class Phase(NamedTuple):
    """What holds from optimizer step `start` on: the plugins that are there, and their plan."""

    start: int
    plugins: tuple[str, ...]
    plan: Plan


def make_phases(backbone: Backbone, plugins: Plugins, provided: Collection[str]) -> tuple[Phase, ...]:
    """A plan for every stretch of a run between the steps at which a plugin stops.

    Raises:
        DiffxError: an impossible set, in any of the phases, or a step to stop at that is none.
    """
    for name, plugin in plugins.items():
        if plugin.stop is not None and (type(plugin.stop) is not int or plugin.stop < 1):
            raise DiffxError(
                f"plugins.{name} stops at step {plugin.stop}, which is no step of a run; type a whole number of at "
                "least 1, or null for never."
            )
    phases = []
    for start in sorted({0, *(p.stop for p in plugins.values() if p.stop is not None)}):
        there = {name: p for name, p in plugins.items() if p.stop is None or p.stop > start}
        phases.append(Phase(start, tuple(there), make_plan(backbone, there, provided)))
    return tuple(phases)


def phase_at(phases: Sequence[Phase], step: int) -> Phase:
    """The phase that optimizer step `step` belongs to."""
    return next(phase for phase in reversed(phases) if phase.start <= step)


def make_plan(backbone: Backbone, plugins: Plugins, provided: Collection[str]) -> Plan:
    """The static table of a run. `provided`: the batch keys and services. Raises DiffxError for impossible sets."""
    for name, plugin in plugins.items():
        check_declaration(name, plugin, len(backbone.blocks))
        check_needs(name, plugin, {*provided, *DRAWN})
    names = dict.fromkeys([MAIN, *(p.view for p in plugins.values())])
    views = tuple(make_view(view, backbone, {n: p for n, p in plugins.items() if p.view == view}) for view in names)
    needs = dict.fromkeys(need for plugin in plugins.values() for need in plugin.needs)
    return Plan(views, tuple(needs), _streams(backbone, plugins))


class _Layout:
    """The depths walked once with token counts in place of tokens."""

    def __init__(self, backbone: Backbone, plugins: Plugins) -> None:
        self.backbone, self.plugins = backbone, plugins
        self.spans = {n: p.span for n, p in plugins.items() if p.span is not None}
        self.active: list[str] = []  # spans entered and not left, outermost first
        self.saved: dict[str, tuple[str, ...]] = {}  # which spans were active where a plugin saved
        self.present = [backbone.grid_tokens + backbone.extra_tokens]
        self.entering: dict[str, int] = {}
        self.kept: dict[str, tuple[int, ...]] = {}
        self.extra: dict[str, int] = {}
        self.outside = backbone.extra_tokens  # tokens that stand behind the grid at this depth
        self.behind: list[int] = []  # as many at each depth, where it is read
        self.inside: list[tuple[str, ...]] = []  # the active spans of each block
        self.read_inside: dict[str, list[tuple[str, ...]]] = {}

    def depth(self, depth: int) -> tuple[Action, ...]:
        """What happens before block `depth`, in the order restore, read, switch, save, drop."""
        self.behind.append(self.outside)
        row = self._leave(depth) + self._read(depth) + self._switch(depth)
        for plugin in [n for n, s in self.spans.items() if s.saved_at == depth and s.start != depth]:
            self.saved[plugin] = tuple(self.active)
            row.append(Action("save", plugin))
        # Of spans that start together the longest is the outer one.
        starting = (n for n, s in self.spans.items() if s.start == depth)
        for plugin in sorted(starting, key=lambda n: -self.spans[n].stop):
            row += self._enter(depth, plugin)
        self.inside.append(tuple(self.active))
        return tuple(row)

    def _leave(self, depth: int) -> list[Action]:
        row = []
        for plugin in _leaving(depth, self.active, self.plugins):
            self.active.pop()
            self.present.pop()
            row.append(Action("restore", plugin))
        return row

    def _read(self, depth: int) -> list[Action]:
        readers = [n for n, p in self.plugins.items() if depth in p.reads]
        for name in readers:
            if self.plugins[name].whole and self.active:
                raise DiffxError(
                    f"plugins.{name} reads the whole grid before block {depth}, where plugins.{self.active[-1]} has "
                    f"left tokens out; end plugins.{self.active[-1]} at or before block {depth - 1}, or move the read."
                )
            self.read_inside.setdefault(name, []).append(tuple(self.active))
        return [Action("read", n) for n in readers]

    def _switch(self, depth: int) -> list[Action]:
        if depth not in self.backbone.borders:
            return []
        if self.active:
            raise DiffxError(
                f"plugins.{self.active[-1]} narrows blocks on both sides of block {depth}, where the stream of "
                f"{say_backbone(self.plugins)} changes; end it at block {depth - 1}, or start it at block {depth}."
            )
        for name, span in self.spans.items():
            if span.saved_at < depth <= span.start:
                raise DiffxError(
                    f"plugins.{name} keeps its state before block {span.saved_at} and drops before block {span.start}, "
                    f"and at block {depth} the stream of {say_backbone(self.plugins)} changes; let it start where it "
                    "keeps its state."
                )
        count = self.backbone.tokens_after.get(depth, self.present[-1])
        self.outside += count - self.present[-1]
        self.present[-1] = count
        return [Action("switch")]

    def _enter(self, depth: int, plugin: str) -> list[Action]:
        check_saved(plugin, self.saved.get(plugin, tuple(self.active)), tuple(self.active))
        check_outer(plugin, [n for n in self.active if len(self.kept[n]) > 1])
        row = [Action("save", plugin)] if self.spans[plugin].saved_at == depth else []
        self.extra[plugin] = self.outside
        self.entering[plugin] = self.present[-1]
        grid = _count_kept(plugin, self.spans[plugin], self.present[-1] - self.outside)
        self.kept[plugin] = tuple(count + self.outside for count in grid)
        self.active.append(plugin)
        self.present.append(round(sum(self.kept[plugin]) / len(grid)))
        return [*row, Action("drop", plugin)]


def make_view(name: str, backbone: Backbone, plugins: Plugins) -> View:
    """One pass over the batch in which these plugins act. Raises DiffxError where they cannot act together."""
    layout, actions, tokens = _Layout(backbone, plugins), [], []
    for depth in range(len(backbone.blocks) + 1):
        actions.append(layout.depth(depth))
        tokens.append(layout.present[-1])
    check_skips(backbone, plugins, layout.inside)
    check_width(backbone, plugins)
    check_joined(plugins, layout.read_inside)
    wraps = _wraps(plugins, layout.inside)
    check_attended(plugins, layout.inside, wraps)
    retimes = only_one("retime", "gives each token a time", plugins)
    if retimes and not backbone.token_times:
        raise DiffxError(
            f"plugins.{retimes} gives each token a time of its own, and {say_backbone(plugins)} "
            f"({type(backbone).__name__}) has one for a sample; take another backbone, or leave plugins.{retimes} out."
        )
    return View(
        name,
        tuple(actions),
        tuple(tokens),
        layout.entering,
        layout.kept,
        layout.extra,
        tuple(layout.behind),
        frozenset(block for p in plugins.values() for block in p.attends),
        wraps,
        only_one("couple", "chooses the noise of each sample", plugins),
        retimes,
        only_one("visible", "weighs the denoising error", plugins),
    )


def _streams(backbone: Backbone, plugins: Plugins) -> dict[str, str]:
    """The batch key of each stream beside the image; each must be brought by one plugin."""
    found: dict[str, str] = {}
    for name, plugin in plugins.items():
        for stream, key in plugin.streams.items():
            if stream == "image" or stream not in backbone.streams:
                there = ", ".join(backbone.streams)
                raise DiffxError(f"plugins.{name} brings the stream {stream!r}, and this backbone denoises {there}.")
            if stream in found:
                raise DiffxError(f"plugins.{name} brings the stream {stream!r}, which another plugin brings too.")
            found[stream] = key
    if missing := [stream for stream in backbone.streams if stream != "image" and stream not in found]:
        raise DiffxError(
            f"This backbone denoises {missing[0]!r} beside the image, and no plugin brings it; type the plugin that "
            "does, or a backbone without it."
        )
    return found


def _leaving(depth: int, active: list[str], plugins: Plugins) -> list[str]:
    """The spans that end at `depth`, innermost first; they must be the innermost ones."""
    ends = [n for n in active if plugins[n].span.stop == depth]  # type: ignore[union-attr]
    innermost = active[len(active) - len(ends) :]
    for outer, inner in zip(ends, innermost, strict=True):
        if outer != inner:
            refuse_crossing(outer, inner, plugins)
    return ends[::-1]


def _count_kept(name: str, span: Span, present: int) -> tuple[int, ...]:
    kept = span.kept(present)
    if min(kept) < 1:
        raise DiffxError(
            f"plugins.{name} would keep {min(kept)} of {present} tokens at its rate of {span.rate}; "
            "type a smaller rate."
        )
    return kept


def _wraps(plugins: Plugins, inside: list[tuple[str, ...]]) -> dict[int, str]:
    """The plugin around each block that has one. Of two it would matter which is the outer one."""
    found: dict[int, str] = {}
    for name, plugin in plugins.items():
        for block in plugin.wraps:
            if block in found:
                raise DiffxError(
                    f"plugins.{found[block]} and plugins.{name} both: each decides how block {block} runs; leave one "
                    "out, or give them different blocks."
                )
            if plugin.whole and inside[block]:
                raise DiffxError(
                    f"plugins.{name} runs block {block} on the whole grid, where plugins.{inside[block][-1]} has left "
                    "tokens out; leave one of them out."
                )
            found[block] = name
    return found
