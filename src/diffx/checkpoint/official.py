"""Weights in the official layouts of checkpoint/layouts, to diffx and back."""

import math
from collections.abc import Mapping
from itertools import product
from typing import Any, NamedTuple

import torch
from torch import Tensor

from diffx.checkpoint.architecture import Architecture
from diffx.checkpoint.layouts import Layout
from diffx.checkpoint.rules import Tensors, moved
from diffx.checkpoint.tensors import describe_mismatch, mismatches
from diffx.errors import DiffxError

TABLE = "y_embedder.embedding_table.weight"
TIME = "t_embedder.mlp.0.weight"
OUTPUT = ("final_layer.linear.weight", "final_layer.linear.bias")


class Weights(NamedTuple):
    """backbone: the state of a plain backbone. plugin: the state of the layout's plugin, training only.
    unused: what diffx has no place for, so that it can be written back: the output rows of a variance that SiT computes
    and drops, tables that diffx computes."""

    backbone: Tensors
    plugin: Tensors
    unused: Tensors


class Converted(NamedTuple):
    """null_label: whether the file has a row that stands for no class. remarks: on what was changed, in words."""

    weights: Weights
    null_label: bool
    remarks: list[str]


def from_official(tensors: Mapping[str, Tensor], architecture: Architecture, prediction: str = "velocity") -> Converted:
    """The weights in diffx's layout. Half precision becomes float32.

    Time that runs backwards is turned in the weights, see `turn_time`; what a network of `prediction` "velocity" gives
    changes its sign with it, in the output layer.

    Raises:
        DiffxError: the tensors are of another architecture; names the first that differ.
    """
    layout, settings, remarks = architecture.layout, architecture.settings, []
    full = {key: t.float() if t.is_floating_point() else t for key, t in tensors.items()}
    backbone, plugin = _split(full, layout)
    null_label, doubled = _check(backbone, architecture)
    unused = {key: backbone.pop(key) for key in layout.made(settings) if key in backbone}
    for rule in layout.rules:
        backbone = rule.read(backbone, settings)
    if not null_label:
        backbone[TABLE] = torch.cat([backbone[TABLE], torch.zeros_like(backbone[TABLE][:1])])
        remarks.append("trained without label dropout: a null label of zeros was added; guidance will not work")
    if doubled:
        unused |= _take_dead_variance(backbone, settings)
        remarks.append("the output rows of the unused variance were set aside")
    if layout.backward_time:
        backbone |= _turned(backbone, layout, prediction)
        sign = ("and sign were", ", velocity is noise minus data") if prediction == "velocity" else ("was", "")
        remarks.append(f"time {sign[0]} turned in the weights: 0 is data{sign[1]}")
    return Converted(Weights(backbone, plugin, unused), null_label, remarks)


def to_official(
    weights: Weights, architecture: Architecture, prediction: str = "velocity", null_label: bool = True
) -> Tensors:
    """The inverse of `from_official`; null_label: whether the file is to have the row that stands for no class."""
    layout, settings = architecture.layout, architecture.settings
    backbone = dict(weights.backbone)
    if layout.backward_time:
        backbone |= _turned(backbone, layout, prediction)
    if layout.dead_variance and weights.unused:
        backbone |= _join_dead_variance(backbone, weights.unused, settings)
    if not null_label:
        backbone[TABLE] = backbone[TABLE][:-1]
    tensors = _written(backbone, architecture) | {
        key: weights.unused.get(key, made) for key, made in layout.made(settings).items()
    }
    for official, ours in layout.training_only.items():
        tensors |= {moved(key, {ours: official}): t for key, t in weights.plugin.items() if key.startswith(ours)}
    return tensors


def turn_time(weight: Tensor, period: float = 10000) -> Tensor:
    """The first layer (D, 256) of a time embedding that sees t where the given one sees 1 − t. Its own inverse.

    The features are [cos ωt | sin ωt], and cos ω(1−t) = cos ω cos ωt + sin ω sin ωt, sin ω(1−t) = sin ω cos ωt −
    cos ω sin ωt: a linear map, so it is exact up to float32's rounding. period: the longest of the features.
    """
    half = weight.shape[1] // 2
    omega = torch.exp(-math.log(period) * torch.arange(half, dtype=torch.float32) / half).double()
    cos, sin = weight.double().chunk(2, dim=1)
    turned = [cos * omega.cos() + sin * omega.sin(), cos * omega.sin() - sin * omega.cos()]
    return torch.cat(turned, dim=1).to(weight.dtype)


def _turned(backbone: Tensors, layout: Layout, prediction: str) -> Tensors:
    output = {key: -backbone[key] for key in OUTPUT} if prediction == "velocity" else {}
    return {TIME: turn_time(backbone[TIME], layout.period)} | output


def _split(tensors: Tensors, layout: Layout) -> tuple[Tensors, Tensors]:
    """What belongs to the backbone, and what to the plugin under the plugin's names."""
    backbone, plugin = {}, {}
    for key, tensor in tensors.items():
        match = next((prefix for prefix in layout.training_only if key.startswith(prefix)), None)
        if match is None:
            backbone[key] = tensor
        else:
            plugin[moved(key, layout.training_only)] = tensor
    return backbone, plugin


def _written(backbone: Tensors, architecture: Architecture) -> Tensors:
    """A backbone's state by the rules of the layout alone."""
    for rule in reversed(architecture.layout.rules):
        backbone = rule.write(backbone, architecture.settings)
    return backbone


def _by_channel(rows: Tensor, channels: int) -> Tensor:
    """Output rows (p·p·channels, ...), channel fastest, as (p·p, channels, ...)."""
    return rows.unflatten(0, (-1, channels))


def _take_dead_variance(backbone: Tensors, settings: Mapping[str, Any]) -> Tensors:
    """Remove from the output layer the rows r with r mod 2C >= C, and return them."""
    channels, taken = settings["in_channels"], {}
    for key in OUTPUT:
        rows = _by_channel(backbone[key], 2 * channels)
        backbone[key] = rows[:, :channels].flatten(0, 1)
        taken[key] = rows[:, channels:].flatten(0, 1)
    return taken


def _join_dead_variance(backbone: Tensors, unused: Tensors, settings: Mapping[str, Any]) -> Tensors:
    channels = settings["in_channels"]
    halves = {key: [_by_channel(t[key], channels) for t in (backbone, unused)] for key in OUTPUT}
    return {key: torch.cat(both, dim=1).flatten(0, 1) for key, both in halves.items()}


def _check(tensors: Tensors, architecture: Architecture) -> tuple[bool, bool]:
    """Whether a file has a null label and rows of an unused variance. Every name and shape must be what diffx would
    write, but for tables that it makes."""
    layout, settings = architecture.layout, architecture.settings
    with torch.device("meta"):
        ours = architecture.build().state_dict()
    tables = {key: made for key, made in layout.made(settings).items() if key in tensors}
    may_lack = (True, False) if TABLE in ours and len(ours[TABLE]) > settings["num_classes"] else (True,)
    kinds = product(may_lack, (False, True) if layout.dead_variance else (False,))
    expected = {
        (null, doubled): _written(_variant(ours, null, doubled, settings), architecture) | tables
        for null, doubled in kinds
    }
    found = min(expected, key=lambda kind: len(mismatches(tensors, expected[kind], "", "")))
    difference = describe_mismatch(tensors, expected[found], "the file", architecture.family)
    if difference:
        raise DiffxError(f"The file is of another architecture: {difference}.")
    return found


def _variant(ours: Tensors, null_label: bool, doubled: bool, settings: Mapping[str, Any]) -> Tensors:
    changed = dict(ours)
    if not null_label:
        changed[TABLE] = ours[TABLE][:-1]
    if doubled:
        changed |= _join_dead_variance(ours, ours, settings)
    return changed
