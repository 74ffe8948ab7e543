"""What the planner refuses, each in a sentence that names the plugins and what to type instead."""

from collections.abc import Collection, Mapping

from diffx.backbone import Backbone
from diffx.errors import DiffxError
from diffx.plugin import Plugin

Plugins = Mapping[str, Plugin]


def say_backbone(plugins: Plugins) -> str:
    """The backbone of a run, by the plugin that brings it if one does."""
    return next(
        (f"the backbone of plugins.{name}" for name, p in plugins.items() if p.brings_backbone), "this backbone"
    )


def check_declaration(name: str, plugin: Plugin, depth: int) -> None:
    for read in plugin.reads:
        if not 0 <= read <= depth:
            raise DiffxError(
                f"plugins.{name} reads before block {read}, outside the backbone of {depth} blocks; "
                f"type a depth from 0 to {depth}."
            )
    for what, blocks in (("the attention of", plugin.attends), ("to run", plugin.wraps)):
        if wrong := [block for block in blocks if not 0 <= block < depth]:
            raise DiffxError(
                f"plugins.{name} wants {what} block {wrong[0]}, outside the backbone of {depth} blocks; "
                f"type a block from 0 to {depth - 1}."
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
    if not plugin.has_loss and plugin.is_weighted:
        raise DiffxError(f"plugins.{name}.weight is set, but this plugin adds no loss; remove the weight.")


def check_needs(name: str, plugin: Plugin, provided: Collection[str]) -> None:
    for need in plugin.needs:
        if need not in provided:
            raise DiffxError(
                f"plugins.{name} needs {need!r}, which nobody provides; "
                f"there are: {', '.join(sorted(provided)) or 'none'}."
            )


def check_skips(backbone: Backbone, plugins: Plugins, inside: list[tuple[str, ...]]) -> None:
    """A skip must join tokens of one set: what it carries was stored before the spans of its depth were entered."""
    for block, source in backbone.skips.items():
        stored = inside[source - 1] if source else ()
        if stored != inside[block]:
            name = next(iter(set(stored) ^ set(inside[block])))
            raise DiffxError(
                f"plugins.{name} narrows the tokens between block {max(source - 1, 0)} and block {block}, which a "
                f"skip of {say_backbone(plugins)} joins; take a backbone without skips, or end plugins.{name} inside."
            )


def check_width(backbone: Backbone, plugins: Plugins) -> None:
    """Where the stream changes its width, only a plugin that restores by itself may have to do with both sides. At a
    border no block does that, and no span lies across."""
    narrowing = backbone.wide_blocks
    for name, plugin in plugins.items() if backbone.narrows_at else ():
        span = None if plugin.implements("restore") else plugin.span
        across = span is not None and span.saved_at <= narrowing < span.stop
        inside = across or narrowing in (*plugin.wraps, *plugin.attends)
        if max(plugin.reads, default=0) > narrowing or (inside and narrowing not in backbone.borders):
            raise DiffxError(
                f"plugins.{name} has to do with block {narrowing} or what comes behind it, where the stream of "
                f"{say_backbone(plugins)} has another width; end plugins.{name} before block {narrowing}."
            )


def check_saved(name: str, before: tuple[str, ...], now: tuple[str, ...]) -> None:
    if before != now:
        other = next(iter(set(before) ^ set(now)))
        raise DiffxError(
            f"plugins.{name} saves its state outside and drops inside the span of plugins.{other} (or the reverse); "
            f"both must see the same tokens: move plugins.{name} so that its save and its start lie on one side."
        )


def check_outer(name: str, varying: list[str]) -> None:
    if varying:
        raise DiffxError(
            f"plugins.{name} narrows inside the span of plugins.{varying[0]}, whose number of tokens changes "
            f"from step to step; give plugins.{varying[0]} one fixed rate."
        )


def refuse_crossing(outer: str, inner: str, plugins: Plugins) -> None:
    a, b = plugins[outer].span, plugins[inner].span
    assert a is not None
    assert b is not None
    raise DiffxError(
        f"plugins.{outer} and plugins.{inner} cross: {outer} narrows blocks {a.start} to {a.stop - 1} and {inner} "
        f"blocks {b.start} to {b.stop - 1} of the same pass. Spans must nest or be disjoint: end plugins.{inner} "
        f"at or before block {a.stop - 1}, or start it at block {a.stop}."
    )


def check_joined(plugins: Plugins, read_inside: Mapping[str, list[tuple[str, ...]]]) -> None:
    """Reads that are compared token by token: of any two, the spans around one must be around the other too."""
    for name, places in read_inside.items():
        if not plugins[name].joins:
            continue
        for one in places:
            for other in places:
                shorter = min(len(one), len(other))
                if one[:shorter] != other[:shorter]:
                    raise DiffxError(
                        f"plugins.{name} compares tokens read inside plugins.{one[-1]} with tokens read inside "
                        f"plugins.{other[-1]}, which keep different ones; move one of the reads of plugins.{name}."
                    )


def check_attended(plugins: Plugins, inside: list[tuple[str, ...]], wraps: Mapping[int, str]) -> None:
    for name, plugin in plugins.items():
        for block in plugin.attends:
            if wraps.get(block, name) != name:
                raise DiffxError(
                    f"plugins.{name} needs the attention of block {block} over all samples and tokens, and "
                    f"plugins.{wraps[block]} decides how that block runs; leave one out, or give them different blocks."
                )
            if inside[block]:
                raise DiffxError(
                    f"plugins.{name} needs the attention of block {block} over all tokens, where "
                    f"plugins.{inside[block][-1]} has left some out; end plugins.{inside[block][-1]} before block "
                    f"{block}, or start it behind."
                )


def only_one(hook: str, what: str, plugins: Plugins) -> str | None:
    """The plugin that implements a hook of which a pass has one."""
    found = [name for name, plugin in plugins.items() if plugin.implements(hook)]
    if len(found) > 1:
        raise DiffxError(
            f"plugins.{found[0]} and plugins.{found[1]} both: each {what}, and a pass has one that does; leave one out."
        )
    return found[0] if found else None
