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
from diffx.checkpoint.architecture import Architecture, parse_architecture
from diffx.checkpoint.layouts import LAYOUTS
from diffx.checkpoint.layouts.classes import MDT_V2_GROUPS
from diffx.checkpoint.official import from_official
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
    state = {k: w for k, w in recording.weights.items() if not k.startswith(TRAINING_ONLY)}
    state = MDT_V2_GROUPS.read(state, {"depth": 0, "decoder_layers": 0, **recording.config, **options})
    table = state["y_embedder.embedding_table.weight"]
    if len(table) == backbone.num_classes:  # built without label dropout (MDT): the null row that we always have
        state["y_embedder.embedding_table.weight"] = torch.cat([table, torch.zeros_like(table[:1])])
    backbone.load_state_dict(state, strict=True)
    return backbone.eval()


OURS = {  # their names of sizes
    "decode_layer": "decoder_layers",
    "decoder_hidden_size": "decoder_width",
    "decoder_num_heads": "decoder_heads",
    "embed_dim": "hidden_size",
    "context_size": "input_size",
    "img_size": "input_size",
    "in_chans": "in_channels",
    "num_blocks": "depth",
    "num_groups": "num_heads",
    "use_qknorm": "qk_norm",
    "bottleneck_dim": "bottleneck",
    "in_context_len": "context_tokens",
    "in_context_start": "context_start",
}


def pairs(config: dict[str, Any]) -> dict[str, int]:
    """Sizes of RAE's networks, which come in twos: the first blocks' and the decoder's."""
    ours = {"hidden_size": "decoder_width", "depth": "decoder_depth", "num_heads": "decoder_heads"}
    first = {key: config[key][0] for key in ours}
    return first | {decoder: config[key][1] for key, decoder in ours.items()}


COMPUTED = {
    "ddt": lambda c: {"decoder_layers": c["num_blocks"] - c["num_encoder_blocks"]},
    "uvit": lambda c: {"depth": c["depth"] + 1, "num_classes": c["num_classes"] - 1},
    "sprint": lambda c: (
        {"depth": c["encoder_depth"] + c["middle_depth"] + c["decoder_depth"]} | {"dense": c["encoder_depth"]}
    ),
    "reg": lambda c: {"class_dim": c["z_dims"][0]},
    "dit-dh": lambda c: pairs(c) | {"patch_size": c["patch_size"]},
    "rae2": lambda c: (
        pairs(c)
        | {"patch_size": c["patch_size"][0], "early_depth": c["base_model_depth"]}
        | {"time_tokens": c["num_t_tokens"], "label_tokens": c["num_c_tokens"]}
    ),
    "sr-dit": lambda c: {"class_dim": c["z_dims"][0]},
}


def architecture_of(recording: Recording, family: str) -> Architecture:
    """The recorded network as one of a family of official files."""
    sizes = {OURS.get(key, key): value for key, value in recording.config.items()}
    sizes |= COMPUTED.get(family, lambda c: {})(recording.config)
    name = f"{family}-{next(iter(LAYOUTS[family].sizes))}-{sizes['patch_size']}"
    if "input_size" not in sizes:
        sizes["input_size"] = recording["x"].shape[-1]
    known = parse_architecture(name).settings
    return parse_architecture(name, {k: v for k, v in sizes.items() if k in known and k != "learn_sigma"})


def imported(recording: Recording, family: str) -> tuple[Any, dict[str, Tensor]]:
    """The recorded network by the importer of official files, every key matched, and what only training uses. Its time
    and velocity are ours."""
    architecture = architecture_of(recording, family)
    prediction = str(architecture.layout.objective.get("prediction", "velocity"))
    weights = from_official(recording.weights, architecture, prediction).weights
    backbone = architecture.build()
    backbone.load_state_dict(weights.backbone, strict=True)
    return backbone.eval(), weights.plugin


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
