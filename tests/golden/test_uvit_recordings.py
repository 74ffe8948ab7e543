"""Agreement with baofff/U-ViT, whose label and time stand before the grid and whose steps count from 1."""

import pytest
import torch
from recordings import Recording, assert_agrees, load
from torch import Tensor

from diffx.backbone import UViT

NAMES = {
    "patch_embed.": "x_embedder.",
    "label_emb.weight": "y_embedder.embedding_table.weight",
    "decoder_pred.": "linear.",
    "final_layer.": "conv.",
}


def laid_out(recording: Recording) -> dict[str, Tensor]:
    """The recorded weights as ours are laid out."""
    half, state = recording.config["depth"] // 2, {}
    for key, weight in recording.weights.items():
        group, _, rest = key.partition(".")
        if group in ("in_blocks", "out_blocks"):
            index, _, rest = rest.partition(".")
            key = f"blocks.{int(index) + (half + 1 if group == 'out_blocks' else 0)}.{rest}"
        elif group == "mid_block":
            key = f"blocks.{half}.{rest}"
        elif key == "pos_embed":
            weight = torch.cat([weight[:, 2:], weight[:, :2]], dim=1)
        for old, new in NAMES.items():
            if key.startswith(old):
                key = new + key.removeprefix(old)
        state[key] = weight
    return state


@pytest.fixture(scope="module")
def uvit() -> Recording:
    return load("uvit")


@pytest.fixture(scope="module")
def backbone(uvit: Recording) -> UViT:
    config = uvit.config
    backbone = UViT(
        input_size=config["img_size"],
        patch_size=config["patch_size"],
        in_channels=config["in_chans"],
        hidden_size=config["embed_dim"],
        depth=config["depth"] + 1,
        num_heads=config["num_heads"],
        num_classes=config["num_classes"] - 1,
        conv=config["conv"],
        times="steps",
    )
    backbone.load_state_dict(laid_out(uvit), strict=True)
    return backbone.eval()


@torch.no_grad()
def test_the_forward_agrees(uvit, backbone):
    assert_agrees(backbone(uvit["x"], uvit["t"] - 1, uvit["y"]), uvit["out"])


@torch.no_grad()
def test_a_time_in_the_interval_is_a_thousandth_of_a_step(uvit, backbone):
    backbone.times = "interval"
    assert_agrees(backbone(uvit["x"], uvit["t"] / 1000, uvit["y"]), uvit["out"], 1e-4)
    backbone.times = "steps"
