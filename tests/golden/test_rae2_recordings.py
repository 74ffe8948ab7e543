"""Agreement with RAEv2's network, its early head, and what both are trained on."""

import pytest
import torch
from recordings import Recording, assert_agrees, imported, load, walked

from diffx.backbone import RAE2
from diffx.objective import Interpolant
from diffx_plugins.early_head import EarlyHead
from diffx_plugins.repa import REPA


@pytest.fixture(scope="module")
def recorded() -> Recording:
    return load("rae2_ddt")


@pytest.fixture(scope="module")
def backbone(recorded: Recording) -> RAE2:
    return imported(recorded, "rae2")[0]


@torch.no_grad()
def test_the_forward_and_the_early_head_agree(recorded, backbone):
    full, early = backbone(recorded["x"], recorded["t"], recorded["y"]).chunk(2, dim=1)
    assert_agrees(full, recorded["out"])
    assert_agrees(early, recorded["early_out"])


@pytest.fixture(scope="module")
def repa(recorded: Recording, backbone: RAE2) -> REPA:
    """The plugin with the recorded layer, whose sizes are those of no real encoder."""
    plugin = REPA(recorded.config["repa_layer_depth"], projector="linear", distance="mse")
    plugin.setup(backbone)
    plugin.projectors[0] = torch.nn.Linear(backbone.hidden_size, recorded.config["z_dim"])
    plugin.load_state_dict(imported(recorded, "rae2")[1], strict=True)
    plugin.needs = ("features/recorded",)
    return plugin


@torch.no_grad()
def test_the_projected_tokens_agree(recorded, backbone, repa):
    _, seen = walked(backbone, repa, recorded["x"], recorded["t"], recorded["y"])
    assert_agrees(repa.projectors[0](seen[repa.reads[0]].x), recorded["projected"])


@torch.no_grad()
def test_the_loss_of_both_heads_agrees_element_by_element_and_that_of_repa(recorded, backbone, repa):
    """draw0 says whose label is dropped (nobody's), draw1 is the noise, draw2 gives the times."""
    assert recorded["train.draw0_rand"].min() > 0.1
    config, x, noise = recorded.config, recorded["x"], recorded["train.draw1_randn_like"]
    objective = Interpolant(prediction="data", error="velocity", floor=float(recorded["train.t_eps"]))
    t, shift = recorded["train.draw2_randn"].sigmoid(), config["time_shift"]
    t = shift * t / (1 + (shift - 1) * t)
    out, seen = walked(backbone, repa, objective.noised(x, noise, t), t, recorded["y"])
    aligned = repa.loss(seen, out, {"features/recorded": recorded["features"]})
    assert_agrees(config["repa_coeff"] * aligned, recorded["train.loss_repa"])
    early = objective.errors(out[:, x.shape[1] :], x, noise, t)
    assert_agrees(early, recorded["train.loss_base"])
    assert_agrees(objective.errors(out, x, noise, t) + config["base_model_coeff"] * early, recorded["train.loss"])
    plugin = EarlyHead(config["base_model_coeff"])
    plugin.objective = objective
    loss = plugin.loss({}, out, {"x": x, "noise": noise, "t": t})
    assert_agrees(loss, recorded["train.loss_base"].mean())
