"""Agreement with willisma/SiT, whose time runs from noise (0) to data (1): 1 − t here, the velocity negated."""

import pytest
import torch
from recordings import Recording, assert_agrees, load, plain_backbone

from diffx.backbone import DiT
from diffx.objective import Interpolant
from diffx.sampler import Euler, EulerMaruyama, Field, Heun

PATHS = {"linear": "linear", "gvp": "cosine", "vp": "vp"}  # theirs: ours


@pytest.fixture(scope="module")
def sit() -> Recording:
    return load("sit")


@pytest.fixture(scope="module")
def backbone(sit: Recording) -> DiT:
    return plain_backbone(sit, learn_sigma=True)


@pytest.fixture
def field(sit: Recording, backbone: DiT) -> Field:
    def network(x, t, y):
        return -backbone(x, 1 - t, y)

    return Field(network, Interpolant(), sit["y"], backbone.null_condition(sit["y"]))


@torch.no_grad()
def test_the_forward_agrees_in_the_first_half_of_its_channels(sit, backbone):
    assert_agrees(backbone(sit["x"], sit["t"], sit["y"])[:, :4], sit["out"])


@torch.no_grad()
@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("prediction", ["velocity", "noise", "score"])
def test_the_loss_agrees_for_every_path_and_prediction(sit, backbone, path, prediction):
    objective, name = Interpolant(PATHS[path], prediction), f"{path}.{prediction}"
    their_t, noise = sit[f"{name}.t"], sit[f"{name}.x0"]
    t = 1 - their_t
    out = backbone(objective.noised(sit["x"], noise, t), their_t, sit["y"])
    out = -out if prediction == "velocity" else out
    assert_agrees(objective.loss(out, sit["x"], noise, t), sit[f"{name}.loss"])


@torch.no_grad()
def test_the_euler_ode_over_eleven_points_is_ours_with_ten_forwards(sit, field):
    assert_agrees(Euler(10)(field, sit["sample_init"].double(), None), sit["ode_euler_11"], 1e-4)
    assert field.nfe == 10


@torch.no_grad()
def test_their_heun_corrects_the_last_interval_too_and_ours_does_not(sit, field):
    start, recorded = sit["sample_init"].double(), sit["ode_heun2_11"]
    x = start
    for k in range(10):
        t, following = 1 - k / 10, 1 - (k + 1) / 10
        slope = field.velocity(x, t)
        x = x - 0.1 * (slope + field.velocity(x - 0.1 * slope, following)) / 2
        if k == 8:
            uncorrected = x - 0.1 * field.velocity(x, following)
    assert_agrees(x, recorded, 1e-4)
    assert_agrees(Heun(19)(field, start, None), uncorrected)


@torch.no_grad()
def test_the_sde_with_sigma_diffusion_and_a_last_mean_step_is_ours_with_ten_forwards(sit, field):
    draws = iter(sit["sde_sigma_10.noises"])
    sample = EulerMaruyama(10, last_step=0.04)(field, sit["sample_init"].double(), lambda x: next(draws))
    assert_agrees(sample, sit["sde_sigma_10"], 1e-4)
    assert field.nfe == 10
    assert next(draws, None) is None
