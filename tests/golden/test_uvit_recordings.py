"""Agreement with baofff/U-ViT, whose label and time stand before the grid and whose steps count from 1."""

import pytest
import torch
from recordings import Recording, assert_agrees, imported, load

from diffx.backbone import UViT


@pytest.fixture(scope="module")
def uvit() -> Recording:
    return load("uvit")


@pytest.fixture(scope="module")
def backbone(uvit: Recording) -> UViT:
    return imported(uvit, "uvit")[0]


@torch.no_grad()
def test_the_forward_agrees(uvit, backbone):
    assert_agrees(backbone(uvit["x"], uvit["t"] - 1, uvit["y"]), uvit["out"])


@torch.no_grad()
def test_a_time_in_the_interval_is_a_thousandth_of_a_step(uvit, backbone):
    backbone.times = "interval"
    assert_agrees(backbone(uvit["x"], uvit["t"] / 1000, uvit["y"]), uvit["out"], 1e-4)
    backbone.times = "steps"
