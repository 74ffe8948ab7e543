"""Tiny networks in the official layouts: the recorded weights of tests/golden, with the settings that they have."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

from diffx.checkpoint.architecture import Architecture, parse_architecture

GOLDEN = Path(__file__).parents[1] / "golden"
FAMILIES = {"dit": "dit", "sit": "sit", "repa": "repa", "mdt": "mdt_v1", "mdtv2": "mdt_v2", "tread": "tread"}
SIZES = ("input_size", "in_channels", "hidden_size", "depth", "num_heads", "num_classes")


@dataclass(frozen=True)
class Official:
    """A tiny file of a family: its weights, recorded inputs and outputs, and how to name it on the command line."""

    family: str
    weights: dict[str, Tensor]
    io: dict[str, Tensor]
    sizes: dict[str, Any]

    @property
    def name(self) -> str:
        return f"{self.family}-s-2"

    @property
    def settings(self) -> list[str]:
        return [f"{key}={value}" for key, value in self.sizes.items()]

    @property
    def architecture(self) -> Architecture:
        return parse_architecture(self.name, self.sizes)


def official(family: str) -> Official:
    folder = GOLDEN / FAMILIES[family]
    config = json.loads((folder / "case.json").read_text())["config"]
    sizes = {key: config[key] for key in SIZES}
    if "decode_layer" in config:
        sizes["decoder_layers"] = config["decode_layer"]
    weights, io = load_file(folder / "weights.safetensors"), load_file(folder / "io.safetensors")
    return Official(family, weights, io, sizes)


def assert_agrees(actual: Tensor, recorded: Tensor) -> None:
    largest = recorded.abs().max()
    assert largest > 0.1
    assert (actual - recorded).abs().max() <= 1e-5 * largest


@torch.no_grad()
def our_output(official: Official, backbone: torch.nn.Module) -> Tensor:
    """The imported backbone on the recorded inputs, told in diffx's time and sign."""
    io = official.io
    if official.family == "sit":
        return -backbone(io["x"], 1 - io["t"], io["y"])
    return backbone(io["x"], io["t"].float(), io["y"])
