"""Agreement with sail-sg/MDT, versions 1 and 2."""

import pytest
import torch
from recordings import Recording, assert_agrees, load, part, plain_backbone

from diffx.backbone import DiT
from diffx.planner import make_plan
from diffx.step import walk_with_plugins
from diffx_plugins.mdt import MDT


@pytest.fixture(scope="module", params=["mdt_v1", "mdt_v2"])
def mdt(request: pytest.FixtureRequest) -> Recording:
    return load(request.param)


@pytest.fixture(scope="module")
def backbone(mdt: Recording) -> DiT:
    return plain_backbone(
        mdt,
        learn_sigma=True,
        position="learned",
        relative_bias=True,
        decoder_layers=mdt.config["decode_layer"],
        skips="en_inblocks.0.attn.qkv.weight" in mdt.weights,
    )


@torch.no_grad()
def test_the_forward_agrees_in_evaluation_and_in_the_full_training_pass(mdt, backbone):
    out = backbone(mdt["x"], mdt["t"].float(), mdt["y"])
    assert_agrees(out, mdt["out"])
    assert_agrees(out, mdt["full_train"])


@torch.no_grad()
def test_the_masked_training_forward_agrees(mdt, backbone):
    plugin = MDT(mask_ratio=mdt["mask_ratio_drawn"].item())
    plugin.setup(backbone)
    plugin.side_block.load_state_dict(part(mdt.weights, "sideblocks.0."), strict=True)
    plugin.mask_token.copy_(mdt.weights["mask_token"])
    view = make_plan(backbone, {"mdt": plugin}, ()).views[1]
    assert view.name == "masked"
    assert view.kept["mdt"] == (mdt["ids_keep"].shape[1],)
    aux = {"mdt": {"keep": mdt["ids_keep"]}}
    out, _ = walk_with_plugins(backbone, view, {"mdt": plugin}, mdt["x"], mdt["t"].float(), mdt["y"], aux)
    assert_agrees(out, mdt["masked_train"])
