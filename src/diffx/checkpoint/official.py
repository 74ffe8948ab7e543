"""Weights in the official layouts of DiT, SiT, REPA, MDT, TREAD and fast-DiT, to diffx and back.

The blocks of all of them have one set of names; what differs is stated in architecture.Layout.
"""

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor

from diffx.checkpoint.architecture import Architecture, Layout
from diffx.checkpoint.tensors import describe_mismatch
from diffx.errors import DiffxError

Tensors = dict[str, Tensor]
GROUPS = ("en_inblocks", "en_outblocks", "de_blocks")
TABLE = "y_embedder.embedding_table.weight"
TIME = "t_embedder.mlp.0.weight"
OUTPUT = ("final_layer.linear.weight", "final_layer.linear.bias")


class Weights(NamedTuple):
    """backbone: the state of a plain backbone. plugin: the state of the layout's plugin, training only.
    unused: what diffx has no place for, under its official name, so that it can be written back: the output rows of a
    variance that SiT computes and drops."""

    backbone: Tensors
    plugin: Tensors
    unused: Tensors


def from_official(
    tensors: Mapping[str, Tensor], architecture: Architecture, prediction: str = "velocity"
) -> tuple[Weights, list[str]]:
    """The weights in diffx's layout, and remarks on what was changed. Half precision becomes float32.

    Time that runs backwards is turned in the weights, see `turn_time`; what a network of `prediction` "velocity" gives
    changes its sign with it, in the output layer.

    Raises:
        DiffxError: the tensors are of another architecture; names the first that differ.
    """
    layout, settings, remarks = architecture.layout, architecture.settings, []
    full = {key: t.float() if t.is_floating_point() else t for key, t in tensors.items()}
    backbone, plugin = _split(full, layout)
    backbone = {_ungrouped(key, settings) if layout.grouped_blocks else key: t for key, t in backbone.items()}
    if TABLE in backbone and len(backbone[TABLE]) == settings["num_classes"]:
        backbone[TABLE] = torch.cat([backbone[TABLE], torch.zeros_like(backbone[TABLE][:1])])
        remarks.append("trained without label dropout: a null label of zeros was added; guidance will not work")
    unused = _take_dead_variance(backbone, settings) if layout.dead_variance else {}
    if unused:
        remarks.append("the output rows of the unused variance were set aside")
    _check(backbone, architecture)
    if layout.backward_time:
        backbone |= _turned(backbone, prediction)
        remarks.append("time and sign were turned in the weights: 0 is data, velocity is noise minus data")
    return Weights(backbone, plugin, unused), remarks


def to_official(
    weights: Weights, architecture: Architecture, prediction: str = "velocity", null_label: bool = True
) -> Tensors:
    """The inverse of `from_official`; null_label: whether the file is to have the row that stands for no class."""
    layout, settings = architecture.layout, architecture.settings
    backbone = dict(weights.backbone)
    if layout.backward_time:
        backbone |= _turned(backbone, prediction)
    if weights.unused and layout.dead_variance:
        backbone |= _join_dead_variance(backbone, weights.unused, settings)
    if not null_label:
        backbone[TABLE] = backbone[TABLE][:-1]
    tensors = {_grouped(key, settings) if layout.grouped_blocks else key: t for key, t in backbone.items()}
    for official, ours in layout.training_only.items():
        tensors |= {_moved(key, ours, official): t for key, t in weights.plugin.items() if key.startswith(ours)}
    return tensors


def turn_time(weight: Tensor) -> Tensor:
    """The first layer (D, 256) of a time embedding that sees t where the given one sees 1 − t. Its own inverse.

    The features are [cos ωt | sin ωt], and cos ω(1−t) = cos ω cos ωt + sin ω sin ωt, sin ω(1−t) = sin ω cos ωt −
    cos ω sin ωt: a linear map, so it is exact up to float32's rounding.
    """
    half = weight.shape[1] // 2
    omega = torch.exp(-math.log(10000) * torch.arange(half, dtype=torch.float32) / half).double()
    cos, sin = weight.double().chunk(2, dim=1)
    turned = [cos * omega.cos() + sin * omega.sin(), cos * omega.sin() - sin * omega.cos()]
    return torch.cat(turned, dim=1).to(weight.dtype)


def _turned(backbone: Tensors, prediction: str) -> Tensors:
    output = {key: -backbone[key] for key in OUTPUT} if prediction == "velocity" else {}
    return {TIME: turn_time(backbone[TIME])} | output


def _split(tensors: Tensors, layout: Layout) -> tuple[Tensors, Tensors]:
    """What belongs to the backbone, and what to the plugin under the plugin's names."""
    backbone, plugin = {}, {}
    for key, tensor in tensors.items():
        match = next((prefix for prefix in layout.training_only if key.startswith(prefix)), None)
        if match is None:
            backbone[key] = tensor
        else:
            plugin[_moved(key, match, layout.training_only[match])] = tensor
    return backbone, plugin


def _moved(key: str, old: str, new: str) -> str:
    return new + key.removeprefix(old)


def _ungrouped(key: str, settings: Mapping[str, Any]) -> str:
    """MDTv2's en_inblocks.i, en_outblocks.i, de_blocks.i -> blocks.j."""
    group, _, rest = key.partition(".")
    if group not in GROUPS:
        return key
    index, _, rest = rest.partition(".")
    half = (settings["depth"] - settings["decoder_layers"]) // 2
    return f"blocks.{int(index) + GROUPS.index(group) * half}.{rest}"


def _grouped(key: str, settings: Mapping[str, Any]) -> str:
    """blocks.j -> MDTv2's group and place in it."""
    if not key.startswith("blocks."):
        return key
    _, index, rest = key.split(".", 2)
    half = (settings["depth"] - settings["decoder_layers"]) // 2
    group = min(int(index) // half, 2)
    return f"{GROUPS[group]}.{int(index) - group * half}.{rest}"


def _by_channel(rows: Tensor, channels: int) -> Tensor:
    """Output rows (p·p·channels, ...), channel fastest, as (p·p, channels, ...)."""
    return rows.unflatten(0, (-1, channels))


def _take_dead_variance(backbone: Tensors, settings: Mapping[str, Any]) -> Tensors:
    """Remove from the output layer the rows r with r mod 2C >= C, where it has them, and return them."""
    channels, patch = settings["in_channels"], settings["patch_size"]
    taken = {}
    for key in OUTPUT:
        if key in backbone and len(backbone[key]) == 2 * channels * patch**2:
            rows = _by_channel(backbone[key], 2 * channels)
            backbone[key] = rows[:, :channels].flatten(0, 1)
            taken[key] = rows[:, channels:].flatten(0, 1)
    return taken


def _join_dead_variance(backbone: Tensors, unused: Tensors, settings: Mapping[str, Any]) -> Tensors:
    channels = settings["in_channels"]
    halves = {key: [_by_channel(t[key], channels) for t in (backbone, unused)] for key in OUTPUT}
    return {key: torch.cat(both, dim=1).flatten(0, 1) for key, both in halves.items()}


def _check(backbone: Tensors, architecture: Architecture) -> None:
    """Every name and shape must be the backbone's."""
    with torch.device("meta"):
        ours = architecture.build().state_dict()
    name = {key: key for key in [*ours, *backbone]}
    if architecture.layout.grouped_blocks:
        name = {key: _grouped(key, architecture.settings) for key in name}
    theirs = {name[key]: t for key, t in backbone.items()}
    difference = describe_mismatch(theirs, {name[key]: t for key, t in ours.items()}, "the file", architecture.family)
    if difference:
        raise DiffxError(f"The file is of another architecture: {difference}.")
