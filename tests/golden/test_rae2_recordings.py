"""Agreement with RAEv2's network, its early head, and what both are trained on."""

from typing import Any

import pytest
import torch
from recordings import Recording, assert_agrees, load, part, walked
from torch import Tensor

from diffx.backbone import RAE2
from diffx.objective import Interpolant
from diffx_plugins.early_head import EarlyHead
from diffx_plugins.repa import REPA

NAMES = {
    "adaln_modulation": "adaLN_modulation",
    "base_final_layer.": "early_layer.",
    "layer.norm.": "layer.norm_final.",
    "ctx_embedder.embedding_table": "y_embedder.embedding_table",
    "ctx_embedder.learnable_tokens": "label_tokens",
    "t_embedder.learnable_tokens": "time_tokens",
}


def laid_out(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """The recorded weights as ours are laid out, without the projector."""
    state: dict[str, list[Tensor]] = {}
    for key, w in weights.items():
        for theirs, ours in NAMES.items():
            key = key.replace(theirs, ours)
        for theirs in ("q", "k", "v"):
            key = key.replace(f"attn.{theirs}.", "attn.qkv.")
        key = key.replace("mlp.w1.", "mlp.w12.").replace("mlp.w2.", "mlp.w12.")
        state.setdefault(key, []).append(w)
    order = {key: [weights[key.replace("qkv", c)] for c in "qkv"] for key in state if "attn.qkv." in key}
    joined = {key: torch.cat(order.get(key, parts)) for key, parts in state.items()}
    return {key: w for key, w in joined.items() if not key.startswith("repa_projector.")}


@pytest.fixture(scope="module")
def recorded() -> Recording:
    return load("rae2_ddt")


@pytest.fixture(scope="module")
def backbone(recorded: Recording) -> RAE2:
    config: dict[str, Any] = recorded.config
    backbone = RAE2(
        **{key: config[key] for key in ("input_size", "in_channels", "num_classes", "mlp_ratio")},
        patch_size=config["patch_size"][0],
        hidden_size=config["hidden_size"][0],
        depth=config["depth"][0],
        num_heads=config["num_heads"][0],
        decoder_width=config["hidden_size"][1],
        decoder_depth=config["depth"][1],
        decoder_heads=config["num_heads"][1],
        time_tokens=config["num_t_tokens"],
        label_tokens=config["num_c_tokens"],
        early_depth=config["base_model_depth"],
    )
    backbone.load_state_dict(laid_out(recorded.weights), strict=True)
    return backbone.eval()


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
    plugin.projectors[0].load_state_dict(part(recorded.weights, "repa_projector."))
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
