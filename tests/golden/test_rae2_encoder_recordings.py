"""Agreement with RAEv2's autoencoder: several layers of a DINOv3 to latents, and latents to levels."""

import json
from pathlib import Path

import pytest
import torch
from recordings import Recording, assert_agrees, load, part

from diffx.frozen.autoencoder import Autoencoder, load_autoencoder
from diffx.frozen.encoder import SPECS, EncoderSpec
from diffx.frozen.vision import VisionModel

PLACEHOLDERS = {"patch_size": "SHOULD BE RELOADED", "image_size": 224}  # as in the authors' config.json


@pytest.fixture(scope="module")
def recorded() -> Recording:
    return load("rae2_encoder")


@pytest.fixture
def rae(recorded: Recording, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Autoencoder:
    """The recorded one, from a folder in the authors' layout, with Meta's file of the encoder."""
    config = recorded.config
    sizes = tuple((key, config[key]) for key in ("embed_dim", "depth", "num_heads"))
    model = VisionModel("vit_small_patch16_dinov3", 16, arguments=sizes)
    monkeypatch.setitem(SPECS, "tiny", EncoderSpec(32, 16, model, "dinov3", "self-supervised"))
    monkeypatch.setenv("DIFFX_WEIGHTS", str(tmp_path))
    torch.save(part(recorded.weights, "encoder."), tmp_path / "tiny.pth")
    folder = tmp_path / "rae"
    folder.mkdir()
    torch.save(part(recorded.weights, "decoder."), folder / "decoder.pt")
    torch.save({name: recorded[name] for name in ("mean", "var")}, folder / "stats.pt")
    sizes_of_decoder = {key: size for key, size in config.items() if key.startswith("decoder_")}
    layers = [layer + 1 for layer in config["layers_from_0"]]
    recipe = {"encoder": "tiny", "layers": layers, "levels": True}
    (folder / "config.json").write_text(json.dumps({**sizes_of_decoder, **PLACEHOLDERS, **recipe}))
    return load_autoencoder(str(folder))


def test_latents_and_images_agree(recorded, rae):
    network = rae.to(recorded["image"].device).network
    with torch.no_grad():
        assert_agrees(network.encode(recorded["image"] * 2 - 1), recorded["latent"])
    assert_agrees((rae.decode(recorded["drawn"]) + 1) / 2, recorded["decoded_drawn"])
