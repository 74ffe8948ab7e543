"""Agreement with SwayStar123/SpeedrunDiT, whose class token stands before the grid; time runs as ours."""

import pytest
import torch
from recordings import Recording, assert_agrees, imported, load
from torch import Tensor, nn

from diffx.backbone import SRDiT
from diffx.backbone.protocol import pack, unpack
from diffx.config.compose import compose_config
from diffx.config.target import make
from diffx.objective import Interpolant
from diffx.planner import MAIN, make_view
from diffx.step import walk_with_plugins
from diffx_plugins.contrastive import Contrastive
from diffx_plugins.reg import REG
from diffx_plugins.sprint import SPRINT


def packed(image: Tensor, class_token: Tensor) -> Tensor:
    return pack({"image": image, "class": class_token})


def class_last(tokens: Tensor) -> Tensor:
    return torch.cat([tokens[:, 1:], tokens[:, :1]], dim=1)


@pytest.fixture(scope="module")
def speedrun() -> Recording:
    return load("speedrun")


@pytest.fixture(scope="module")
def backbone(speedrun: Recording) -> SRDiT:
    return imported(speedrun, "sr-dit")[0]


@torch.no_grad()
def test_the_forward_agrees_in_both_streams(speedrun, backbone):
    state = packed(speedrun["x"], speedrun["class_token"])
    out = unpack(backbone(state, speedrun["t"], speedrun["y"]), backbone.streams)
    assert_agrees(out["image"], speedrun["out"])
    assert_agrees(out["class"], speedrun["out2"])


@torch.no_grad()
def test_the_network_that_the_experiment_composes_is_the_recorded_one(speedrun, backbone):
    """+experiment=speedrun at the recording's sizes takes its weights whole, and its plugins are set as recorded."""
    sizes = {"hidden_size": 64, "depth": 6, "num_heads": 4, "class_dim": 24}
    small = [f"backbone.{name}={value}" for name, value in sizes.items()]
    settings = compose_config(["+experiment=speedrun", "data.size=4", "data.num_classes=10", *small])
    composed = make(settings.backbone)
    composed.load_state_dict(backbone.state_dict(), strict=True)
    state = packed(speedrun["x"], speedrun["class_token"])
    out = unpack(composed.eval()(state, speedrun["t"], speedrun["y"]), composed.streams)
    assert_agrees(out["image"], speedrun["out"])
    assert_agrees(out["class"], speedrun["out2"])
    sprint, contrastive = settings.plugins["sprint"], settings.plugins["contrastive"]
    assert (sprint.mask, sprint.path_drop, sprint.path_drop_by, sprint.drop_extra) == ("random", 0.05, "batch", True)
    assert (contrastive.weight, contrastive.partners) == (0.05, "neighbour")
    assert settings.objective.shift == pytest.approx((32 * 16 * 16 / 4096) ** 0.5)


@pytest.fixture(scope="module")
def plugins(speedrun: Recording, backbone: SRDiT) -> dict:
    """SPRINT with SR-DiT's settings, and REG after the dense blocks with the recorded projector, whose sizes are those
    of no real encoder."""
    config = speedrun.config
    reg = REG(depth=backbone.middle[0], projector_dim=config["projector_dim"])
    reg.setup(SRDiT.tiny(hidden_size=config["hidden_size"], depth=config["depth"]))
    reg.projector[4] = nn.Linear(config["projector_dim"], config["z_dims"][0])
    reg.load_state_dict(imported(speedrun, "sr-dit")[1], strict=True)
    reg._shapes = dict(backbone.streams)
    sprint = SPRINT(mask="random", path_drop=0.05, path_drop_by="batch", drop_extra=True)
    sprint.setup(backbone)
    return {"sprint": sprint, "reg": reg}


def steps_draws(speedrun: Recording, backbone: SRDiT, plugin: SPRINT) -> tuple[Tensor, Tensor, dict]:
    """Times, packed noise, and SPRINT's aux of the recorded step."""
    t = speedrun["draw0_rand"].flatten()
    shift = (torch.Size(backbone.shape).numel() / 4096) ** 0.5
    t = shift * t / (1 + (shift - 1) * t)
    (kept,) = plugin.span.kept(backbone.grid_tokens + 1)
    places = speedrun["draw3_rand"].argsort(1)[:, :kept] - 1  # theirs count the class token first
    keep = torch.where(places < 0, backbone.grid_tokens, places)
    aux = {"keep": keep, "path_dropped": (speedrun["draw4_rand"] < plugin.path_drop).expand(len(t))}
    return t, packed(speedrun["draw1_randn_like"], speedrun["draw2_randn_like"]), aux


@torch.no_grad()
def test_the_training_losses_with_few_tokens_in_the_middle_agree(speedrun, backbone, plugins):
    objective = Interpolant()
    t, noise, aux = steps_draws(speedrun, backbone, plugins["sprint"])
    assert_agrees(t, speedrun["train.time"].flatten())
    clean = packed(speedrun["x"], speedrun["class_token"])
    features = class_last(speedrun["features"])
    target = objective.target(clean, noise, t)
    batch = {"features/dinov2_vitb14": features[:, :-1], "class_token/dinov2_vitb14": features[:, -1], "target": target}
    auxes = {"sprint": aux, "reg": plugins["reg"].prepare(batch, torch.Generator())}
    view = make_view(MAIN, backbone, plugins)
    x_t = objective.noised(clean, noise, t)
    out, seen = walk_with_plugins(backbone, view, plugins, x_t, t, speedrun["y"], auxes)
    image, image_noise = (unpack(part, backbone.streams)["image"] for part in (out, noise))
    assert_agrees(objective.loss(image, speedrun["x"], image_noise, t), speedrun["train.denoise"])
    terms = plugins["reg"].loss(seen["reg"], out, auxes["reg"])
    assert_agrees(terms["class"], speedrun["train.class_denoise"].mean())
    assert_agrees(terms["align"], speedrun["train.align"])
    contrastive = Contrastive(partners="neighbour")
    contrastive.setup(backbone)
    aux = contrastive.prepare({"target": target, "label": speedrun["y"]}, torch.Generator())
    assert_agrees(contrastive.loss({}, out, aux), speedrun["train.contrastive"])


@torch.no_grad()
def test_the_projected_tokens_agree_the_class_token_last(speedrun, backbone, plugins):
    view = make_view(MAIN, backbone, {"reg": plugins["reg"]})
    state = packed(speedrun["x"], speedrun["class_token"])
    _, seen = walk_with_plugins(
        backbone, view, {"reg": plugins["reg"]}, state, speedrun["t"], speedrun["y"], {"reg": {}}
    )
    (tokens,) = seen["reg"].values()
    assert_agrees(plugins["reg"].projector(tokens.x), class_last(speedrun["out1"]))
