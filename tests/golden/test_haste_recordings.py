"""Agreement with NUS-HPC-AI-Lab/HASTE, whose time runs as ours does."""

import pytest
import torch
from recordings import assert_agrees, load, part, plain_backbone, walked

from diffx.objective import Interpolant
from diffx_plugins.haste import HASTE
from diffx_plugins.repa import mlp_projector

CASE = load("haste")


@pytest.fixture(scope="module")
def backbone():
    return plain_backbone(CASE)


@pytest.fixture(scope="module")
def plugin(backbone):
    """The plugin with the recorded projector, whose sizes are those of no real encoder."""
    plugin = HASTE(blocks=(4, 5, 6, 7))
    plugin.setup(backbone)
    plugin.projector = mlp_projector(backbone.hidden_size, CASE.config["projector_dim"], CASE.config["z_dims"][0])
    plugin.projector.load_state_dict(part(CASE.weights, "projectors.0."), strict=True)
    return plugin


@torch.no_grad()
def test_the_forward_and_the_logits_of_the_attended_blocks_agree(backbone, plugin):
    out, seen = walked(backbone, plugin, CASE["x"], CASE["t"], CASE["y"])
    assert_agrees(out, CASE["out"])
    assert torch.equal(out, backbone(CASE["x"], CASE["t"], CASE["y"]))
    for block in plugin.attends:
        q, k = seen["attention", block]
        assert_agrees(q @ k.transpose(-2, -1) / q.shape[-1] ** 0.5, CASE[f"logits{block}"])


@torch.no_grad()
def test_the_denoising_the_attention_and_the_alignment_loss_agree(backbone, plugin):
    objective, t, noise = Interpolant(), CASE["draw0_rand"].flatten(), CASE["draw1_randn_like"]
    assert plugin.reads == (CASE.config["encoder_depth"],)
    out, seen = walked(backbone, plugin, objective.noised(CASE["x"], noise, t), t, CASE["y"])
    aux = {"features": CASE["features"], "logits": CASE["teacher_logits"].transpose(0, 1)}
    terms = plugin.loss(seen, out, aux)
    assert_agrees(objective.loss(out, CASE["x"], noise, t), CASE["denoise"])
    assert_agrees(terms["attention"], CASE["attention"])
    assert_agrees(terms["align"], CASE["align"])
