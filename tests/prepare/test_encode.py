"""Latents and features of prepared images, compared with the networks that make them."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import AutoencoderDC, AutoencoderKL
from safetensors.torch import save_file

from diffx.assemble.services import make_encoder
from diffx.data.latents import Latents
from diffx.data.shards import open_shards
from diffx.errors import DiffxError
from diffx.frozen.autoencoder import load_autoencoder
from diffx.frozen.encoder import SPECS, EncoderSpec
from diffx.frozen.vision import VisionModel
from diffx.prepare.encode import prepare_features, prepare_latents
from diffx.prepare.images import prepare_images


@pytest.fixture
def root(source: Path, tmp_path: Path) -> Path:
    """Eleven images of 16 pixels, in shards of five."""
    prepare_images(str(source), tmp_path / "root", 16, shard_size=5)
    return tmp_path / "root"


def all_images(root: Path) -> torch.Tensor:
    shards = open_shards(root / "images", "")
    return torch.from_numpy(shards.read(np.arange(len(shards))))


@torch.no_grad()
def test_x_is_the_autoencoders_scaled_posterior_of_the_image(root, autoencoder):
    prepare_latents(root, str(autoencoder), batch_size=3)
    posterior = AutoencoderKL.from_pretrained(autoencoder).encode(all_images(root) / 127.5 - 1).latent_dist
    data = Latents(str(root))
    assert (len(data), data.shape) == (11, (4, 8, 8))
    batch = data.batch(torch.arange(11))
    torch.testing.assert_close(batch["x"], 0.18215 * posterior.mean, rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(batch["x_std"], 0.18215 * posterior.std, rtol=1e-3, atol=1e-4)


@torch.no_grad()
def test_with_flip_the_latents_of_the_mirrored_images_are_stored_too(root, autoencoder):
    prepare_latents(root, str(autoencoder), flip=True)
    data = Latents(str(root), flip=True)
    data.provide(["image"], side=4)
    batch = data.batch(torch.arange(11, 22))
    assert torch.equal(batch["image"], all_images(root).flip(-1))
    encoded = AutoencoderKL.from_pretrained(autoencoder).encode(batch["image"] / 127.5 - 1).latent_dist.mean
    torch.testing.assert_close(batch["x"], 0.18215 * encoded, rtol=1e-3, atol=1e-3)


@torch.no_grad()
def test_decoding_inverts_the_scaling(root, autoencoder):
    prepare_latents(root, str(autoencoder))
    data = Latents(str(root))
    x = data.batch(torch.arange(2))["x"]
    decoded = AutoencoderKL.from_pretrained(autoencoder).decode(x / 0.18215).sample
    expected = (127.5 * decoded + 128).clamp(0, 255).to(torch.uint8)
    assert (data.decode(x).int() - expected.int()).abs().max() <= 1
    assert data.decode(x).shape == (2, 3, 16, 16)


def test_the_manifest_holds_the_channel_statistics_of_posterior_samples(root, autoencoder):
    manifest = prepare_latents(root, str(autoencoder))
    moments = open_shards(root / "latents", "").read(np.arange(11)).astype(np.float64)
    mean, std = np.split(moments, 2, axis=1)
    variance = (mean**2 + std**2).mean((0, 2, 3)) - mean.mean((0, 2, 3)) ** 2
    np.testing.assert_allclose(manifest["statistics"]["mean"], mean.mean((0, 2, 3)), rtol=1e-2, atol=1e-4)
    np.testing.assert_allclose(manifest["statistics"]["std"], np.sqrt(variance), rtol=1e-3)


def test_channel_statistics_beside_the_autoencoder_replace_its_scaling_factor(autoencoder, tmp_path):
    for file in autoencoder.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    (tmp_path / "channel_statistics.json").write_text(json.dumps({"mean": [1, 2, 3, 4], "std": [2, 4, 5, 8]}))
    network = load_autoencoder(str(tmp_path))
    assert network.shift == [1, 2, 3, 4]
    assert network.scale == [0.5, 0.25, 0.2, 0.125]


def test_an_autoencoder_without_a_posterior_stores_latents_alone(root, tmp_path):
    torch.manual_seed(0)
    blocks = {f"{part}_block_types": ("ResBlock",) * 2 for part in ("encoder", "decoder")}
    widths = {f"{part}_block_out_channels": (8, 8) for part in ("encoder", "decoder")}
    layers = {f"{part}_layers_per_block": (1, 1) for part in ("encoder", "decoder")}
    scales = {f"{part}_qkv_multiscales": ((), ()) for part in ("encoder", "decoder")}
    network = AutoencoderDC(latent_channels=4, **blocks, **widths, **layers, **scales, scaling_factor=0.5)
    network.save_pretrained(tmp_path / "dc")
    prepare_latents(root, str(tmp_path / "dc"))
    batch = Latents(str(root)).batch(torch.tensor([0]))
    with torch.no_grad():
        expected = network.encode(all_images(root)[:1] / 127.5 - 1).latent
    torch.testing.assert_close(batch["x"], 0.5 * expected, rtol=1e-2, atol=1e-2)
    assert "x_std" not in batch


def test_a_missing_autoencoder_is_one_sentence_with_the_three_ways_to_provide_it(root, tmp_path, monkeypatch):
    monkeypatch.setenv("DIFFX_WEIGHTS", str(tmp_path / "weights"))
    with pytest.raises(DiffxError) as caught:
        prepare_latents(root, "stabilityai/sd-vae-ft-mse")
    assert str(tmp_path / "weights" / "stabilityai" / "sd-vae-ft-mse") in str(caught.value)
    assert "HF_HOME" in str(caught.value)
    assert "hf download stabilityai/sd-vae-ft-mse" in str(caught.value)


def test_an_autoencoder_in_the_weights_folder_is_found_by_its_name(autoencoder, tmp_path, monkeypatch):
    monkeypatch.setenv("DIFFX_WEIGHTS", str(tmp_path))
    (tmp_path / "someone").mkdir()
    (tmp_path / "someone" / "vae").symlink_to(autoencoder)
    assert load_autoencoder("someone/vae").scale == [0.18215]


def test_latents_beyond_float16_are_left_out_and_named(root, autoencoder, tmp_path):
    network = AutoencoderKL.from_pretrained(autoencoder)
    network.quant_conv.bias.data[0] = 1e6
    network.save_pretrained(tmp_path / "wild")
    manifest = prepare_latents(root, str(tmp_path / "wild"))
    assert manifest["samples"] == 0
    assert {reason for _, reason in manifest["rejected"]} == {"not finite in float16"}
    with pytest.raises(DiffxError, match="holds no samples"):
        Latents(str(root))


def test_latents_before_images_are_refused_with_the_command(tmp_path, autoencoder):
    with pytest.raises(DiffxError, match=r"python -m diffx\.prepare images SRC"):
        prepare_latents(tmp_path, str(autoencoder))


def test_latents_of_a_second_autoencoder_do_not_mix_with_the_first(root, autoencoder, tmp_path):
    prepare_latents(root, str(autoencoder))
    (tmp_path / "copy").symlink_to(autoencoder)
    with pytest.raises(DiffxError, match="was begun with autoencoder="):
        prepare_latents(root, str(tmp_path / "copy"))


def test_cached_features_are_what_the_encoder_gives_and_their_hours_are_written(
    root, autoencoder, tmp_path, monkeypatch
):
    import timm

    monkeypatch.setenv("DIFFX_WEIGHTS", str(tmp_path))
    arguments = (("embed_dim", 16), ("depth", 1), ("num_heads", 2))
    model = VisionModel("vit_small_patch14_dinov2.lvd142m", 14, arguments=arguments)
    monkeypatch.setitem(SPECS, "tiny", EncoderSpec(16, 8, model, "dinov2", "self-supervised"))
    torch.manual_seed(0)
    network = timm.create_model("vit_small_patch14_dinov2", img_size=28, num_classes=0, **dict(arguments))
    save_file(network.state_dict(), tmp_path / "tiny.safetensors")
    prepare_latents(root, str(autoencoder))
    manifest = prepare_features(root, "tiny")
    assert manifest["cost"]["cpu_hours"] > 0
    data = Latents(str(root))
    assert data.provide(["features/tiny"], side=2) == []
    cached = data.batch(torch.arange(11))["features/tiny"].float()
    torch.testing.assert_close(cached, make_encoder("tiny", data, 2, "cpu")(all_images(root)), rtol=1e-2, atol=5e-3)


def test_features_for_a_grid_that_the_encoder_cannot_give_are_refused(root):
    with pytest.raises(DiffxError, match="1x1 tokens"):
        prepare_features(root, "dinov2_vitb14", grid=4)
