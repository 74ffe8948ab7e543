"""Agreement with zhuyu-cs/MeanFlow, whose time runs as ours. Not recorded: samples whose label was dropped.

That code squares a sample's summed error once more before it divides by it, s² / (s² + 1e-3), and ours, as the paper,
does not: both are made of the error, which is what agrees. Of the samples r = t holds below a drawn 0.25 in the plain
recording; in the guided one the same draws agree for a share from 0.056 to 0.157 alone.
"""

import pytest
import torch
from recordings import Recording, architecture_of, assert_agrees, imported, load
from torch import Tensor

from diffx.backbone import DiT
from diffx.checkpoint.architecture import check_layout
from diffx.checkpoint.layouts import LAYOUTS
from diffx.checkpoint.official import from_official, to_official
from diffx.errors import DiffxError
from diffx.objective import MeanFlow
from diffx.objective.meanflow import squared_error
from diffx.sampler import Field, MeanFlowSteps

INSTANT = {"plain": 0.25, "cfg": 0.1}
SETTINGS = {"plain": {}, "cfg": {"omega": 0.2, "kappa": 0.92, "high": 0.8}}


@pytest.fixture(scope="module")
def meanflow() -> Recording:
    return load("meanflow")


@pytest.fixture
def backbone(meanflow: Recording) -> DiT:
    return imported(meanflow, "meanflow")[0]


def drawn_times(meanflow: Recording, case: str) -> tuple[Tensor, Tensor]:
    pair = torch.sigmoid(meanflow[f"{case}.draw1_randn"] - 0.4)
    t, r = pair.amax(1), pair.amin(1)
    return t, torch.where(meanflow[f"{case}.draw2_rand"] < INSTANT[case], t, r)


@torch.no_grad()
def test_the_forward_with_two_times_agrees(meanflow, backbone):
    pair = torch.stack([meanflow["t"], meanflow["r"]], dim=1)
    assert_agrees(backbone(meanflow["x"], pair, meanflow["y"]), meanflow["out"])


@pytest.mark.parametrize("case", SETTINGS)
def test_the_error_and_its_gradient_agree(meanflow, backbone, case):
    objective, (t, r) = MeanFlow(**SETTINGS[case]), drawn_times(meanflow, case)
    x, y, noise = meanflow["x"], meanflow["y"], meanflow[f"{case}.draw3_randn_like"]
    average = objective.average(backbone, x, noise, t, r, y, backbone.null_condition(y))
    out = backbone(objective.noised(x, noise, t), torch.stack([t, r], dim=1), y)
    squares = squared_error(out, average)
    assert_agrees(squares.sum() / x.numel(), meanflow[f"{case}.mse"])
    loss = squares.square() / (squares.square().detach() + 1e-3)
    assert_agrees(loss, meanflow[f"{case}.loss"])
    loss.mean().backward()
    assert_agrees(backbone.x_embedder.proj.weight.grad, meanflow[f"{case}.grad_x_embedder"])


@pytest.mark.parametrize("steps", [1, 2])
@torch.no_grad()
def test_samples_in_one_step_and_two_end_at_the_recorded_points(meanflow, backbone, steps):
    field = Field(backbone, MeanFlow(), meanflow["y"], backbone.null_condition(meanflow["y"]))
    sample = MeanFlowSteps(steps)(field, meanflow["sample_init"].double(), lambda x: x)
    assert_agrees(sample, meanflow[f"sample_{steps}"])
    assert field.nfe == steps


def test_a_network_of_two_times_is_written_as_the_recorded_file_and_as_no_other(meanflow, backbone):
    architecture = architecture_of(meanflow, "meanflow")
    weights = from_official(meanflow.weights, architecture, "").weights
    assert to_official(weights, architecture, "").keys() == meanflow.weights.keys()
    with pytest.raises(DiffxError, match=r"backbone\.two_times=true, for which repa has no embedder"):
        check_layout("DiT", architecture.settings, {}, LAYOUTS["repa"], "repa")
