"""The plan as text: what happens before which block, on how many tokens, and what a step costs."""

import textwrap
from collections.abc import Mapping
from itertools import zip_longest
from typing import Any

from torch import nn

from diffx.assemble.flops import Flops
from diffx.backbone import Backbone
from diffx.planner import Plan, View
from diffx.plugin import Plugin

COLUMNS = 80  # of the narrowest terminal
WHAT = 29  # columns before the words of a row
WHOLE: dict[str, Any] = {"break_long_words": False, "break_on_hyphens": False, "drop_whitespace": True}


def plan_table(backbone: Backbone, plugins: Mapping[str, Plugin], plan: Plan, flops: Flops) -> str:
    """A row for every depth at which something happens, and sizes and costs: beside them in so far as COLUMNS columns
    hold both, else below."""
    left = [row for view in plan.views for row in _rows(view, backbone)]
    right = _facts(backbone, plugins, flops)
    width = max(map(len, left)) + 2
    if width + max(map(len, right)) <= COLUMNS:
        return "\n".join(f"{a:<{width}}{b}".rstrip() for a, b in zip_longest(left, right, fillvalue=""))
    rows = [line for row in left for line in textwrap.wrap(row, COLUMNS, subsequent_indent=" " * WHAT, **WHOLE)]
    return "\n".join([*rows, *(line for fact in right for line in textwrap.wrap(fact, COLUMNS, **WHOLE))])


def _rows(view: View, backbone: Backbone) -> list[str]:
    rows = [f"{f'view {view.name}':<14}depth  tokens  what"]
    if view.retimes:
        rows.append(f"{'':>19}  {'':>6}  {view.retimes} gives each token a time")
    for depth, actions in enumerate(view.actions):
        words = "; ".join(
            [_words(view, kind, plugin) for kind, plugin in actions if kind != "save" or not _drops(actions, plugin)]
            + ([f"{view.wraps[depth]} runs block {depth}"] if depth in view.wraps else [])
            + ([f"queries and keys of block {depth} are kept"] if depth in view.attends else [])
        )
        if words:
            # Before a drop is counted what arrives here: the tokens that the previous block worked on.
            arriving = view.tokens[depth - 1] if depth else _embedded(backbone)
            rows.append(f"{depth:>19}  {arriving:>6}  {words}")
    if len(rows) == 1:
        rows.append(f"{0:>19}  {_embedded(backbone):>6}  all tokens through all {len(backbone.blocks)} blocks")
    return rows


def _embedded(backbone: Backbone) -> int:
    return backbone.grid_tokens + backbone.extra_tokens


def _drops(actions: tuple[tuple[str, str], ...], plugin: str) -> bool:
    return ("drop", plugin) in actions


def _words(view: View, kind: str, plugin: str) -> str:
    if kind == "restore":
        return f"{plugin} restores {view.entering[plugin]}"
    if kind == "read":
        return f"{plugin} reads"
    if kind == "switch":
        return "the backbone's stream changes"
    if kind == "save":
        return f"{plugin} keeps its state here"
    kept = [view.entering[plugin] - count for count in view.kept[plugin]]
    dropped = f"{kept[0]}" if len(kept) == 1 else f"one of {', '.join(map(str, kept))}"
    return f"{plugin} keeps its state here, drops {dropped}"


def _facts(backbone: Backbone, plugins: Mapping[str, Plugin], flops: Flops) -> list[str]:
    facts = [f"backbone {_millions(backbone)}"]
    if plugins:
        facts[0] += f" · plugins {_millions(nn.ModuleDict(dict(plugins)))}, training only"
    facts.append(f"forward {flops.relative:.2f}x the plain backbone's FLOPs")
    facts.append(f"{operations(flops.train)} per image (forward and backward)")
    if flops.encoder:
        facts[-1] += f", {operations(flops.encoder)} of it in encoders"
    if flops.autoencoder:
        facts.append(f"{operations(flops.autoencoder)} of it in the autoencoder, which is trained too")
    return facts


def _millions(module: nn.Module) -> str:
    return f"{sum(p.numel() for p in module.parameters()) / 1e6:.1f}M"


def operations(count: int) -> str:
    """In words."""
    return f"{count / 1e12:.2f} TFLOP" if count >= 1e11 else f"{count / 1e9:.2f} GFLOP"
