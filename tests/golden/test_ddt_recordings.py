"""Agreement with MCG-NJU/DDT, whose time runs from noise (0) to data (1), and with its improved DiT."""

from typing import Any

import pytest
import torch
from recordings import Recording, assert_agrees, load
from torch import Tensor

from diffx.backbone import DDT
from diffx.backbone.protocol import Memory
from diffx.planner import MAIN, make_view
from diffx.plugin import Plugin
from diffx.step import walk_with_plugins


def by_axis(rows: Tensor, heads: int) -> Tensor:
    """Channels (heads·d, ...) of queries or keys, which turn by column and row in turn: row's first, then column's."""
    pairs = rows.unflatten(0, (heads, -1, 2, 2))  # head, frequency, axis, channel of the pair
    return torch.cat([pairs[:, :, 1], pairs[:, :, 0]], 1).flatten(0, 2)


def laid_out(weights: dict[str, Tensor], config: dict[str, Any]) -> dict[str, Tensor]:
    """The recorded weights as ours are laid out."""
    patch, heads, state = config["patch_size"], config["num_groups"], {}
    for key, w in weights.items():
        if "adaLN_modulation.0" in key:
            key = key.replace("modulation.0", "modulation.1")
        elif key.endswith("embedder.proj.weight"):
            w = w.unflatten(1, (-1, patch, patch))
        elif key.startswith("final_layer.linear"):
            w = w.unflatten(0, (-1, patch * patch)).transpose(0, 1).flatten(0, 1)
        elif key.endswith("qkv.weight"):
            q, k, v = w.chunk(3)
            w = torch.cat([by_axis(q, heads), by_axis(k, heads), v])
        elif key.endswith(("q_norm.weight", "k_norm.weight")):
            w = by_axis(w, 1)
        elif key.endswith("mlp.w1.weight"):
            key, w = key.replace("w1", "w12"), torch.cat([w, weights[key.replace("w1", "w3")]])
        elif key.endswith("mlp.w3.weight"):
            continue
        elif key.endswith("mlp.w2.weight"):
            key = key.replace("w2", "w3")
        state[key] = w
    return state


def network(recording: Recording) -> DDT:
    config = recording.config
    backbone = DDT(
        input_size=recording["x"].shape[-1],
        patch_size=config["patch_size"],
        in_channels=config["in_channels"],
        hidden_size=config["hidden_size"],
        depth=config["num_blocks"],
        num_heads=config["num_groups"],
        num_classes=config["num_classes"],
        decoder_layers=config["num_blocks"] - config.get("num_encoder_blocks", config["num_blocks"]),
    )
    backbone.load_state_dict(laid_out(recording.weights, config), strict=True)
    return backbone.eval()


@torch.no_grad()
@pytest.mark.parametrize("name", ["ddt", "improved_dit"])
def test_the_forward_agrees(name):
    recorded = load(name)
    assert_agrees(network(recorded)(recorded["x"], recorded["t"], recorded["y"]), recorded["out"])


@torch.no_grad()
def test_the_state_that_conditions_each_token_of_the_decoder_agrees():
    ddt = load("ddt")
    backbone, reader = network(ddt), Plugin()
    reader.reads = (backbone.borders[0] + 1,)
    view = make_view(MAIN, backbone, {"reader": reader})
    _, seen = walk_with_plugins(backbone, view, {"reader": reader}, ddt["x"], ddt["t"], ddt["y"], {"reader": {}})
    tokens = seen["reader"][reader.reads[0]]
    assert_agrees(torch.nn.functional.silu(tokens.cond), ddt["state"])


@torch.no_grad()
def test_the_decoder_sees_label_and_time_through_its_tokens_alone():
    ddt = load("ddt")
    backbone = network(ddt)
    memory = Memory()
    tokens, cond = backbone.embed(ddt["x"], ddt["t"], ddt["y"], memory)
    for depth in range(backbone.borders[0]):
        tokens = backbone.run_block(depth, tokens, cond, memory)
    tokens = backbone.switch(backbone.borders[0], tokens, cond, memory)
    unlabelled = torch.full_like(cond, torch.nan)
    for depth in range(backbone.borders[0], len(backbone.blocks)):
        tokens = backbone.run_block(depth, tokens, unlabelled, memory)
    assert_agrees(backbone.head(tokens, unlabelled), ddt["out_given_state"])
