"""The recordings of the official implementations: tiny networks, their weights, inputs and outputs (shared/golden).

`case.json` says what each tensor means; nothing here is the official code.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

from diffx.backbone import Backbone, DiT, MDTBackbone
from diffx.planner import make_plan
from diffx.plugin import Aux, Plugin, Seen
from diffx.step import walk_with_plugins

TRAINING_ONLY = ("projectors.", "sideblocks.", "mask_token", "ap_head.", "teacher.")


@dataclass(frozen=True)
class Recording:
    """config: what the official network was built with. weights: under the official keys. io: inputs and outputs."""

    config: dict[str, Any]
    weights: dict[str, Tensor]
    io: dict[str, Tensor]

    def __getitem__(self, name: str) -> Tensor:
        return self.io[name]


def load(name: str) -> Recording:
    folder = Path(__file__).parent / name
    config = json.loads((folder / "case.json").read_text())["config"]
    return Recording(config, load_file(folder / "weights.safetensors"), load_file(folder / "io.safetensors"))


def plain_backbone(recording: Recording, **options: Any) -> Backbone:
    """The DiT, or MDT's network where `options` say so, with the recorded weights, every key matched."""
    shared = ("input_size", "patch_size", "in_channels", "hidden_size", "depth", "num_heads", "num_classes")
    family = MDTBackbone if "decoder_layers" in options else DiT
    backbone = family(**{key: recording.config[key] for key in shared}, **options)
    state = {renamed(k, recording.config): w for k, w in recording.weights.items() if not k.startswith(TRAINING_ONLY)}
    table = state["y_embedder.embedding_table.weight"]
    if len(table) == backbone.num_classes:  # built without label dropout (MDT): the null row that we always have
        state["y_embedder.embedding_table.weight"] = torch.cat([table, torch.zeros_like(table[:1])])
    backbone.load_state_dict(state, strict=True)
    return backbone.eval()


def renamed(key: str, config: dict[str, Any]) -> str:
    """MDTv2 names its blocks in three groups; ours are one list."""
    half = (config["depth"] - config.get("decode_layer", 0)) // 2
    for offset, group in enumerate(("en_inblocks.", "en_outblocks.", "de_blocks.")):
        if key.startswith(group):
            index, rest = key.removeprefix(group).split(".", 1)
            return f"blocks.{int(index) + offset * half}.{rest}"
    return key


def walked(
    backbone: Backbone, plugin: Plugin, x_t: Tensor, t: Tensor, y: Tensor, aux: Aux | None = None
) -> tuple[Tensor, Seen]:
    """The prediction, and what the plugin sees, in one walk over the blocks."""
    view = make_plan(backbone, {"it": plugin}, plugin.needs).views[0]
    out, seen = walk_with_plugins(backbone, view, {"it": plugin}, x_t, t, y, {"it": aux or {}})
    return out, seen["it"]


def part(weights: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """The weights under `prefix`, without it."""
    return {key.removeprefix(prefix): w for key, w in weights.items() if key.startswith(prefix)}


def assert_agrees(actual: Tensor, recorded: Tensor, tolerance: float = 1e-5) -> None:
    """Equal within `tolerance` of the recording's largest magnitude, which must not be zero."""
    largest = recorded.abs().max()
    assert largest > 0
    assert actual.shape == recorded.shape
    difference = ((actual - recorded).abs().max() / largest).item()
    assert difference <= tolerance, f"relative difference {difference:.1e}"
