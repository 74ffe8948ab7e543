"""Tiny networks in the official layouts: the recorded weights of tests/golden, with the settings that they have."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from diffx.backbone.protocol import pack, unpack
from diffx.checkpoint.architecture import Architecture
from tests.golden.recordings import architecture_of, load

FAMILIES = {
    "dit": "dit",
    "sit": "sit",
    "repa": "repa",
    "mdt": "mdt_v1",
    "mdtv2": "mdt_v2",
    "tread": "tread",
    "lightningdit": "lightningdit_qknorm",
    "ddt": "ddt",
    "improved-dit": "improved_dit",
    "dit-dh": "rae_ddt",
    "rae2": "rae2_ddt",
    "uvit": "uvit",
    "reg": "reg",
    "sr-dit": "speedrun",
    "sprint": "sprint",
    "maskdit": "maskdit",
    "jit": "jit",
}
BACKWARD = ("sit", "lightningdit", "ddt", "improved-dit", "jit")  # time runs from noise to data


@dataclass(frozen=True)
class Official:
    """A tiny file of a family: its weights, recorded inputs and outputs, and what it is."""

    family: str
    weights: dict[str, Tensor]
    io: dict[str, Tensor]
    architecture: Architecture

    @property
    def name(self) -> str:
        """As it is named on the command line, beside `settings`."""
        size = next(iter(self.architecture.layout.sizes))
        return f"{self.family}-{size}-{self.architecture.settings['patch_size']}"

    @property
    def sizes(self) -> dict[str, Any]:
        return {key: value for key, value in self.architecture.settings.items() if key != "patch_size"}

    @property
    def settings(self) -> list[str]:
        return [f"{key}={str(value).lower()}" for key, value in self.sizes.items()]


def official(family: str) -> Official:
    recording = load(FAMILIES[family])
    return Official(family, recording.weights, recording.io, architecture_of(recording, family))


def assert_agrees(actual: Tensor, recorded: Tensor) -> None:
    largest = recorded.abs().max()
    assert largest > 0.1
    assert (actual - recorded).abs().max() <= 1e-5 * largest


@torch.no_grad()
def our_output(official: Official, backbone: Any) -> Tensor:
    """The imported backbone on the recorded inputs, told in diffx's time and sign; of two streams the image."""
    io = official.io
    if official.family == "jit":  # which predicts data: a time that is turned changes no sign
        return backbone(io["x"], 1 - io["t"], io["y"])
    if official.family in BACKWARD:
        return -backbone(io["x"], 1 - io["t"], io["y"])
    if official.family == "uvit":
        return backbone(io["x"], io["t"] - 1, io["y"])
    if official.family == "maskdit":
        labels = torch.where(io["onehot"].any(1), io["onehot"].argmax(1), io["onehot"].shape[1])
        return backbone(io["x"], io["sigma"].log() / 4, labels)
    if "class_token" in io:
        state = pack({"image": io["x"], "class": io["class_token"]})
        return unpack(backbone(state, io["t"], io["y"]), backbone.streams)["image"]
    out = backbone(io["x"], io["t"].float(), io["y"])
    return out.chunk(2, 1)[0] if official.family == "rae2" else out  # the other half is the early head's


def recorded_output(official: Official) -> Tensor:
    return official.io["network" if official.family == "maskdit" else "out"]
