"""Agreement with Martinser/REG, whose class token stands before the grid; time runs as ours, from data (0) to noise."""

import pytest
import torch
from recordings import Recording, assert_agrees, imported, load
from torch import Tensor, nn

from diffx.backbone import REGBackbone
from diffx.backbone.protocol import pack, unpack
from diffx.objective import Interpolant
from diffx.planner import MAIN, make_view
from diffx.sampler import EulerMaruyama, Field, Guidance
from diffx.step import walk_with_plugins
from diffx_plugins.reg import REG


def packed(image: Tensor, class_token: Tensor) -> Tensor:
    return pack({"image": image, "class": class_token})


def class_last(tokens: Tensor) -> Tensor:
    return torch.cat([tokens[:, 1:], tokens[:, :1]], dim=1)


@pytest.fixture(scope="module")
def reg() -> Recording:
    return load("reg")


@pytest.fixture(scope="module")
def backbone(reg: Recording) -> REGBackbone:
    return imported(reg, "reg")[0]


@pytest.fixture(scope="module")
def plugin(reg: Recording, backbone: REGBackbone) -> REG:
    """The plugin with the recorded projector, whose sizes are those of no real encoder."""
    dim = reg.config["z_dims"][0]
    like_dinov2 = REGBackbone.tiny(hidden_size=reg.config["hidden_size"], depth=reg.config["depth"])
    plugin = REG(depth=reg.config["encoder_depth"], projector_dim=reg.config["projector_dim"])
    plugin.setup(like_dinov2)
    plugin.projector[4] = nn.Linear(reg.config["projector_dim"], dim)
    plugin.load_state_dict(imported(reg, "reg")[1], strict=True)
    plugin._shapes = dict(backbone.streams)
    return plugin


def step_on(backbone, plugin, state, t, y):
    """The prediction and what REG reads, in one walk over the blocks."""
    view = make_view(MAIN, backbone, {"reg": plugin})
    out, seen = walk_with_plugins(backbone, view, {"reg": plugin}, state, t, y, {"reg": {}})
    return out, seen["reg"]


@torch.no_grad()
def test_the_forward_agrees_in_both_streams(reg, backbone):
    out = unpack(backbone(packed(reg["x"], reg["class_token"]), reg["t"], reg["y"]), backbone.streams)
    assert_agrees(out["image"], reg["out"])
    assert_agrees(out["class"], reg["class_out"])


@torch.no_grad()
def test_the_projected_tokens_agree_the_class_token_last(reg, backbone, plugin):
    _, seen = step_on(backbone, plugin, packed(reg["x"], reg["class_token"]), reg["t"], reg["y"])
    assert_agrees(plugin.projector(seen[2].x), class_last(reg["projected"]))


@torch.no_grad()
def test_the_denoising_losses_of_both_streams_and_the_alignment_agree(reg, backbone, plugin):
    objective, t = Interpolant(), reg["draw0_rand"].flatten()
    clean = packed(reg["x"], reg["class_token"])
    noise = packed(reg["draw1_randn_like"], reg["draw2_randn_like"])
    out, seen = step_on(backbone, plugin, objective.noised(clean, noise, t), t, reg["y"])
    image, image_noise = unpack(out, backbone.streams)["image"], unpack(noise, backbone.streams)["image"]
    assert_agrees(objective.loss(image, reg["x"], image_noise, t), reg["denoise"])
    features = class_last(reg["features"])
    batch = {
        plugin.features: features[:, :-1],
        plugin.class_token: features[:, -1],
        "target": objective.target(clean, noise, t),
    }
    terms = plugin.loss(seen, out, plugin.prepare(batch, torch.Generator()))
    assert_agrees(terms["class"], reg["class_denoise"].mean())
    assert_agrees(terms["align"], reg["align"])


@torch.no_grad()
@pytest.mark.parametrize(
    ("recorded", "guidance"),
    [
        ("plain", Guidance()),
        ("cfg", Guidance(2.3, high=0.85, streams={"class": 1.5})),
        ("cfg_image_only", Guidance(2.3, high=0.85, streams={"class": 1.0})),
    ],
)
def test_the_sampler_with_two_streams_ends_at_the_recorded_point(recorded, guidance):
    reg = load("reg_sampler")
    backbone, _ = imported(reg, "reg")
    field = Field(backbone, Interpolant(), reg["y"], backbone.null_condition(reg["y"]), guidance)
    draws = iter(zip(reg[f"{recorded}.noises"], reg[f"{recorded}.class_noises"], strict=True))
    start = packed(reg["init"], reg["class_init"]).double()
    sample = EulerMaruyama(10)(field, start, lambda x: packed(*next(draws)))
    assert_agrees(unpack(sample, backbone.streams)["image"], reg[f"{recorded}.sample"], 1e-4)
    assert field.nfe == 10
    assert next(draws, None) is None
