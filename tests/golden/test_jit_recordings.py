"""Agreement with LTH14/JiT: the network, one step of its training, and its samplers."""

from typing import Any

import pytest
import torch
from recordings import Recording, assert_agrees, imported, load

from diffx.backbone import JiT
from diffx.checkpoint.layouts import LAYOUTS
from diffx.config.target import Node, make
from diffx.objective import Interpolant
from diffx.sampler import Euler, Field, Guidance, Heun


@pytest.fixture(scope="module")
def recorded() -> Recording:
    return load("jit")


@pytest.fixture
def backbone(recorded: Recording) -> JiT:
    return imported(recorded, "jit")[0]


@pytest.fixture(scope="module")
def objective() -> Interpolant:
    arguments = dict(LAYOUTS["jit"].objective)
    return make(Node(str(arguments.pop("_target_")), arguments))


@torch.no_grad()
def test_the_predicted_image_agrees(recorded, backbone):
    assert_agrees(backbone(recorded["x"], 1 - recorded["t"], recorded["y"]), recorded["out"])


def test_the_loss_and_its_gradients_agree(recorded, backbone, objective):
    """The draws: whose label is dropped (nobody's), of the times, the noise."""
    assert recorded["train.draw0_rand"].min() > 0.1
    x, y, noise = recorded["train.data"], recorded["train.labels"], recorded["train.draw2_randn_like"]
    t = (objective.mean - objective.std * recorded["train.draw1_randn"]).sigmoid()  # theirs of -mean, and 1 - t
    backbone.train()
    for parameter in backbone.parameters():
        parameter.requires_grad_(parameter is not backbone.pos_embed)
    loss = objective.loss(backbone(objective.noised(x, noise, t), t, y), x, noise, t).mean()
    assert_agrees(loss.detach(), recorded["train.loss"])
    loss.backward()
    ours: dict[str, Any] = {
        "x_embedder.proj1.weight": backbone.x_embedder.down.weight,
        "blocks.2.attn.qkv.weight": backbone.blocks[2].attn.qkv.weight,
    }
    for name, parameter in ours.items():
        assert_agrees(parameter.grad, recorded[f"train.grad.net.{name}"])
    assert_agrees(backbone.context_pos_embed.grad[None], recorded["train.grad.net.in_context_posemb"])


@pytest.mark.parametrize(
    ("name", "sampler", "high"),
    [("heun6", Heun(nfe=11), 1.0), ("heun40", Heun(nfe=79), 1.0), ("euler6", Euler(nfe=6), 0.9)],
)
@torch.no_grad()
def test_what_is_sampled_agrees(recorded, backbone, objective, name, sampler, high):
    y = recorded["sample.labels"]
    guidance = Guidance(scale=recorded.config["cfg"], high=high)
    field = Field(backbone, objective, y, backbone.null_condition(y), guidance)
    assert_agrees(sampler(field, recorded["sample.z"].double(), None), recorded[f"sample.{name}"].double(), 1e-5)
