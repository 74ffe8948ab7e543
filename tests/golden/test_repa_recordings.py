"""Agreement with sihyun-yu/REPA, whose time runs as ours does, from data (0) to noise (1)."""

import pytest
import torch
from recordings import Recording, assert_agrees, load, part, plain_backbone
from torch import nn

from diffx.backbone import DiT
from diffx.objective import Interpolant
from diffx.planner import make_plan
from diffx.sampler import Euler, EulerMaruyama, Field, Guidance, Heun
from diffx.step import walk_with_plugins
from diffx_plugins.repa import REPA

CASES = [f"{path}.{times}" for path in ("linear", "cosine") for times in ("uniform", "lognormal")]
FEATURES = "features/recorded"


@pytest.fixture(scope="module")
def repa() -> Recording:
    return load("repa")


@pytest.fixture(scope="module")
def backbone(repa: Recording) -> DiT:
    return plain_backbone(repa)


@pytest.fixture(scope="module")
def plugin(repa: Recording, backbone: DiT) -> REPA:
    """The plugin with the recorded projector, whose sizes are those of no real encoder."""
    plugin = REPA(depth=repa.config["encoder_depth"], projector_dim=40)
    plugin.setup(backbone)
    plugin.projectors[0][4] = nn.Linear(40, repa.config["z_dims"][0])
    plugin.projectors.load_state_dict(part(repa.weights, "projectors."), strict=True)
    plugin.needs = (FEATURES,)
    return plugin


def step_on(repa, backbone, plugin, x_t, t):
    """The prediction and what REPA reads, in one walk over the blocks."""
    view = make_plan(backbone, {"repa": plugin}, {FEATURES}).views[0]
    out, seen = walk_with_plugins(backbone, view, {"repa": plugin}, x_t, t, repa["y"], {"repa": {}})
    return out, seen["repa"]


@torch.no_grad()
def test_the_forward_agrees(repa, backbone):
    assert_agrees(backbone(repa["x"], repa["t"], repa["y"]), repa["out"])


@torch.no_grad()
def test_the_projected_tokens_after_block_two_agree(repa, backbone, plugin):
    out, seen = step_on(repa, backbone, plugin, repa["x"], repa["t"])
    assert_agrees(out, repa["out"])
    assert_agrees(plugin.projectors[0](seen[2].x), repa["projected"])


@torch.no_grad()
@pytest.mark.parametrize("case", CASES)
def test_the_denoising_and_the_alignment_loss_agree(repa, backbone, plugin, case):
    objective = Interpolant(case.split(".")[0], times=case.split(".")[1])
    t, noise = repa[f"{case}.t"], repa[f"{case}.noise"]
    out, seen = step_on(repa, backbone, plugin, objective.noised(repa["x"], noise, t), t)
    assert_agrees(objective.loss(out, repa["x"], noise, t), repa[f"{case}.denoise"])
    assert_agrees(plugin.loss(seen, out, {FEATURES: repa["features"]}), repa[f"{case}.align"])


@torch.no_grad()
@pytest.mark.parametrize(
    ("recorded", "sampler", "guidance", "nfe"),
    [
        ("em_10", EulerMaruyama(10), Guidance(), 10),
        ("em_10_cfg", EulerMaruyama(10), Guidance(1.8, 0.0, 0.7), 10),
        ("euler_10_cfg", Euler(10), Guidance(1.8, 0.0, 0.7), 10),
        ("heun_10", Heun(19), Guidance(), 19),
    ],
)
def test_the_sampler_ends_at_the_recorded_point(repa, backbone, recorded, sampler, guidance, nfe):
    field = Field(backbone, Interpolant(), repa["y"], backbone.null_condition(repa["y"]), guidance)
    draws = iter(repa.io.get(f"{recorded}.noises", ()))
    sample = sampler(field, repa["sample_init"].double(), lambda x: next(draws))
    assert_agrees(sample, repa[recorded], 1e-4)
    assert field.nfe == nfe
    assert next(draws, None) is None
