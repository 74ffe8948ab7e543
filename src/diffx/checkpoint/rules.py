"""What an official file does otherwise than diffx: rules, each of which reads a state dict and writes it again.

`read` takes tensors as the file has them to those of diffx, `write` is its inverse; both also work on meta, by which a
file is compared with what it should be. A layout lists its rules in the order of reading.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from diffx.errors import DiffxError

Tensors = dict[str, Tensor]
Settings = Mapping[str, Any]


class Rule(Protocol):
    """One difference. settings: of the backbone."""

    def read(self, tensors: Tensors, settings: Settings) -> Tensors: ...
    def write(self, tensors: Tensors, settings: Settings) -> Tensors: ...


@dataclass(frozen=True)
class Prefixes:
    """Names that begin otherwise: official -> ours."""

    names: Mapping[str, str]

    def read(self, tensors: Tensors, settings: Settings) -> Tensors:
        return {moved(key, self.names): tensor for key, tensor in tensors.items()}

    def write(self, tensors: Tensors, settings: Settings) -> Tensors:
        back = {ours: official for official, ours in self.names.items()}
        return {moved(key, back): tensor for key, tensor in tensors.items()}


@dataclass(frozen=True)
class Infix:
    """A part of names that is called otherwise, wherever it stands."""

    official: str
    ours: str

    def read(self, tensors: Tensors, settings: Settings) -> Tensors:
        return {key.replace(self.official, self.ours): tensor for key, tensor in tensors.items()}

    def write(self, tensors: Tensors, settings: Settings) -> Tensors:
        return {key.replace(self.ours, self.official): tensor for key, tensor in tensors.items()}


@dataclass(frozen=True)
class Groups:
    """Blocks that stand in several lists there and in one here.

    first: the settings -> by list, in order, the place of its first block in ours. single: lists that are one block and
    count nothing.
    """

    first: Callable[[Settings], Mapping[str, int]]
    single: tuple[str, ...] = ()

    def read(self, tensors: Tensors, settings: Settings) -> Tensors:
        first, renamed = self.first(settings), {}
        for key, tensor in tensors.items():
            group, _, rest = key.partition(".")
            if group in first:
                index, _, inner = ("0", "", rest) if group in self.single else rest.partition(".")
                key = f"blocks.{first[group] + int(index)}.{inner}"
            renamed[key] = tensor
        return renamed

    def write(self, tensors: Tensors, settings: Settings) -> Tensors:
        first, renamed = self.first(settings), {}
        for key, tensor in tensors.items():
            if key.startswith("blocks."):
                _, place, inner = key.split(".", 2)
                group = [name for name, start in first.items() if start <= int(place)][-1]
                index = "" if group in self.single else f"{int(place) - first[group]}."
                key = f"{group}.{index}{inner}"
            renamed[key] = tensor
        return renamed


@dataclass(frozen=True)
class Changed:
    """Tensors whose names end in one of `ends` are laid out otherwise; both ways take a tensor and the settings."""

    ends: tuple[str, ...]
    to_ours: Callable[[Tensor, Settings], Tensor]
    to_official: Callable[[Tensor, Settings], Tensor]

    def read(self, tensors: Tensors, settings: Settings) -> Tensors:
        return {k: self.to_ours(t, settings) if k.endswith(self.ends) else t for k, t in tensors.items()}

    def write(self, tensors: Tensors, settings: Settings) -> Tensors:
        return {k: self.to_official(t, settings) if k.endswith(self.ends) else t for k, t in tensors.items()}


@dataclass(frozen=True)
class Joined:
    """Several layers there, one here: their rows one after the other. Names are ends."""

    parts: tuple[str, ...]
    whole: str

    def read(self, tensors: Tensors, settings: Settings) -> Tensors:
        first, *others = self.parts
        joined = {}
        for key, tensor in tensors.items():
            if key.endswith(first):
                stem = key.removesuffix(first)
                key, tensor = stem + self.whole, torch.cat([tensor, *(tensors[stem + other] for other in others)])
            elif key.endswith(tuple(others)):
                continue
            joined[key] = tensor
        return joined

    def write(self, tensors: Tensors, settings: Settings) -> Tensors:
        parts: Tensors = {}
        for key, tensor in tensors.items():
            if key.endswith(self.whole):
                stem = key.removesuffix(self.whole)
                parts |= zip((stem + part for part in self.parts), tensor.chunk(len(self.parts)), strict=True)
            else:
                parts[key] = tensor
        return parts


def moved(key: str, names: Mapping[str, str]) -> str:
    """A name with the first of these beginnings that it has, old -> new, exchanged."""
    for old, new in names.items():
        if key.startswith(old):
            return new + key.removeprefix(old)
    return key


# The changes that more than one layout has.

PATCHES_AS_ROWS = Changed(
    ("embedder.proj.weight",),
    lambda w, s: w.unflatten(1, (-1, s["patch_size"], s["patch_size"])),
    lambda w, s: w.flatten(1),
)
"""Patches are embedded by a linear layer over channel, row, column there, by a convolution here."""

CHANNEL_FIRST = Changed(
    ("final_layer.linear.weight", "final_layer.linear.bias"),
    lambda w, s: w.unflatten(0, (-1, s["patch_size"] ** 2)).transpose(0, 1).flatten(0, 1),
    lambda w, s: w.unflatten(0, (s["patch_size"] ** 2, -1)).transpose(0, 1).flatten(0, 1),
)
"""The head's rows are in the order channel, row, column there; row, column, channel here."""


def _without_class_row(table: Tensor, settings: Settings) -> Tensor:
    if table[:, 0].any():
        raise DiffxError("The file's pos_embed gives the class token a position, and diffx has none for it.")
    return table[:, 1:]


CLASS_FIRST = Changed(
    ("pos_embed",), _without_class_row, lambda table, s: torch.cat([torch.zeros_like(table[:, :1]), table], dim=1)
)
"""The class token stands before the grid there, with a row of zeros in the position table."""

EXTRA_FIRST = Changed(
    ("pos_embed",),
    lambda table, s: torch.cat([table[:, 2:], table[:, :2]], dim=1),
    lambda table, s: torch.cat([table[:, -2:], table[:, :-2]], dim=1),
)
"""Two extra tokens stand before the grid there, behind it here."""


def _by_axis(rows: Tensor, heads: int) -> Tensor:
    pairs = rows.unflatten(0, (heads, -1, 2, 2))  # head, frequency, axis, channel of the pair
    return torch.cat([pairs[:, :, 1], pairs[:, :, 0]], dim=1).flatten(0, 2)


def _alternating(rows: Tensor, heads: int) -> Tensor:
    axes = rows.unflatten(0, (heads, 2, -1, 2))
    return torch.stack([axes[:, 1], axes[:, 0]], dim=2).flatten(0, 3)


def _queries_and_keys(turn: Callable[[Tensor, int], Tensor]) -> Callable[[Tensor, Settings], Tensor]:
    def change(rows: Tensor, settings: Settings) -> Tensor:
        q, k, v = rows.chunk(3)
        return torch.cat([turn(q, settings["num_heads"]), turn(k, settings["num_heads"]), v])

    return change


ALTERNATING_AXES = (
    Changed(("qkv.weight",), _queries_and_keys(_by_axis), _queries_and_keys(_alternating)),
    Changed(("q_norm.weight", "k_norm.weight"), lambda w, s: _by_axis(w, 1), lambda w, s: _alternating(w, 1)),
)
"""A head's channels turn by column and row in turn there; by the row's first here, then by the column's."""
