"""Agreement with MCG-NJU/DDT, whose time runs from noise (0) to data (1), and with its improved DiT."""

import pytest
import torch
from recordings import assert_agrees, imported, load

from diffx.backbone.protocol import Memory
from diffx.planner import MAIN, make_view
from diffx.plugin import Plugin
from diffx.step import walk_with_plugins

FAMILIES = {"ddt": "ddt", "improved_dit": "improved-dit"}


@torch.no_grad()
@pytest.mark.parametrize("name", FAMILIES)
def test_the_forward_agrees(name):
    recorded = load(name)
    backbone, _ = imported(recorded, FAMILIES[name])
    assert_agrees(-backbone(recorded["x"], 1 - recorded["t"], recorded["y"]), recorded["out"])


@torch.no_grad()
def test_the_state_that_conditions_each_token_of_the_decoder_agrees():
    ddt = load("ddt")
    (backbone, _), reader = imported(ddt, "ddt"), Plugin()
    reader.reads = (backbone.borders[0] + 1,)
    view = make_view(MAIN, backbone, {"reader": reader})
    _, seen = walk_with_plugins(backbone, view, {"reader": reader}, ddt["x"], 1 - ddt["t"], ddt["y"], {"reader": {}})
    tokens = seen["reader"][reader.reads[0]]
    assert_agrees(torch.nn.functional.silu(tokens.cond), ddt["state"])


@torch.no_grad()
def test_the_decoder_sees_label_and_time_through_its_tokens_alone():
    ddt = load("ddt")
    backbone, _ = imported(ddt, "ddt")
    memory = Memory()
    tokens, cond = backbone.embed(ddt["x"], 1 - ddt["t"], ddt["y"], memory)
    for depth in range(backbone.borders[0]):
        tokens = backbone.run_block(depth, tokens, cond, memory)
    tokens = backbone.switch(backbone.borders[0], tokens, cond, memory)
    unlabelled = torch.full_like(cond, torch.nan)
    for depth in range(backbone.borders[0], len(backbone.blocks)):
        tokens = backbone.run_block(depth, tokens, unlabelled, memory)
    assert_agrees(-backbone.head(tokens, unlabelled), ddt["out_given_state"])
