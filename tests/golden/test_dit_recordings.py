"""Agreement with facebookresearch/DiT."""

import pytest
import torch
from recordings import Recording, assert_agrees, load, plain_backbone

from diffx.backbone import DiT
from diffx.sampler import Guidance


@pytest.fixture(scope="module")
def dit() -> Recording:
    return load("dit")


@pytest.fixture(scope="module")
def backbone(dit: Recording) -> DiT:
    return plain_backbone(dit, learn_sigma=True)


@torch.no_grad()
def test_the_forward_agrees(dit, backbone):
    assert_agrees(backbone(dit["x"], dit["t"].float(), dit["y"]), dit["out"])


@torch.no_grad()
def test_the_fixed_position_table_is_theirs_and_not_only_loaded(dit):
    fresh = DiT(input_size=8, hidden_size=32, depth=1, num_heads=4)
    assert_agrees(fresh.pos_embed, dit.weights["pos_embed"])


@torch.no_grad()
def test_the_guided_forward_of_three_channels_agrees(dit, backbone):
    steps = dit["t"].float().repeat(2)  # each sample has its own, and guidance asks only whether it acts

    def network(x, t, y):
        return backbone(x, steps, y)

    guided = Guidance(scale=4.0, channels=3)(network, dit["x"], 0.5, dit["y"], backbone.null_condition(dit["y"]))
    assert_agrees(guided, dit["cfg_out"][:3])
    assert torch.equal(dit["cfg_out"][:3, :3], dit["cfg_out"][3:, :3])
