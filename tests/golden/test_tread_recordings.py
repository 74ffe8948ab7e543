"""Agreement with CompVis/tread."""

import pytest
import torch
from recordings import Recording, assert_agrees, load, plain_backbone

from diffx.backbone import DiT
from diffx.planner import make_plan
from diffx.step import walk_with_plugins
from diffx_plugins.tread import TREAD


@pytest.fixture(scope="module")
def tread() -> Recording:
    return load("tread")


@pytest.fixture(scope="module")
def backbone(tread: Recording) -> DiT:
    return plain_backbone(tread)


@torch.no_grad()
def test_the_forward_agrees(tread, backbone):
    assert_agrees(backbone(tread["x"], tread["t"], tread["y"]), tread["out"])


@torch.no_grad()
def test_the_routed_training_forward_agrees(tread, backbone):
    route = tread.config["routes"][0]
    plugin = TREAD(route["selection_ratio"], route["start_layer_idx"], route["end_layer_idx"])
    plugin.setup(backbone)
    view = make_plan(backbone, {"tread": plugin}, ()).views[0]
    assert view.kept["tread"] == (tread["ids_keep"].shape[1],)
    aux = {"tread": {"keep": tread["ids_keep"]}}
    out, _ = walk_with_plugins(backbone, view, {"tread": plugin}, tread["x"], tread["t"], tread["y"], aux)
    assert_agrees(out, tread["routed_train"])
