"""Our representation autoencoder beside diffusers' AutoencoderRAE, and that one under our name."""

from pathlib import Path

import diffusers
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from diffx.errors import DiffxError
from diffx.frozen import autoencoder_rae
from diffx.frozen.autoencoder import SPECS, AutoencoderSpec, load_autoencoder
from diffx.frozen.autoencoder_rae import Recipe
from diffx.frozen.encoder import SPECS as ENCODERS
from diffx.frozen.encoder import EncoderSpec
from diffx.frozen.vision import VisionModel

if not hasattr(diffusers, "AutoencoderRAE"):
    pytest.skip("this diffusers has no AutoencoderRAE", allow_module_level=True)

DECODER = {
    "decoder_hidden_size": 48,
    "decoder_num_hidden_layers": 2,
    "decoder_num_attention_heads": 2,
    "decoder_intermediate_size": 64,
}
IMAGES = torch.randint(0, 256, (2, 3, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def theirs(tmp_path_factory) -> Path:
    """Its folder: a DINOv2 with registers of width 64 on 224 pixels, patches of 2 in an image of 32."""
    rng = torch.Generator().manual_seed(1)
    network = diffusers.AutoencoderRAE(
        encoder_hidden_size=64,
        encoder_num_hidden_layers=2,
        patch_size=2,
        latents_mean=torch.randn(64, 16, 16, generator=rng),
        latents_std=torch.rand(64, 16, 16, generator=rng) + 0.5,
        **DECODER,
    )
    for key, parameter in network.named_parameters():
        parameter.data = torch.randn(parameter.shape, generator=rng) * (0.02 if "patch_emb" in key else 0.2)
    folder = tmp_path_factory.mktemp("theirs")
    network.save_pretrained(folder)
    return folder


def as_transformers_4(key: str) -> str:
    for part, name in (
        ("q", "attention.query"),
        ("k", "attention.key"),
        ("v", "attention.value"),
        ("o", "output.dense"),
    ):
        key = key.replace(f"attention.{part}_proj", f"attention.{name}")
    return key


def as_meta_publishes(encoder: dict[str, Tensor]) -> dict[str, Tensor]:
    """A DINOv2 with registers, of transformers' names, under timm's, which adds the class token's position to it."""
    encoder = {as_transformers_4(key): tensor for key, tensor in encoder.items()}
    position = encoder["embeddings.position_embeddings"]
    state = {
        "cls_token": encoder["embeddings.cls_token"] + position[:, :1],
        "pos_embed": position[:, 1:],
        "reg_token": encoder["embeddings.register_tokens"],
        "norm.weight": torch.ones(64),
        "norm.bias": torch.zeros(64),
    }
    for kind in ("weight", "bias"):
        state[f"patch_embed.proj.{kind}"] = encoder[f"embeddings.patch_embeddings.projection.{kind}"]
    for i in range(2):
        layer, block = f"encoder.layer.{i}", f"blocks.{i}"
        for half in (1, 2):
            state[f"{block}.ls{half}.gamma"] = encoder[f"{layer}.layer_scale{half}.lambda1"]
        for kind in ("weight", "bias"):
            qkv = [encoder[f"{layer}.attention.attention.{part}.{kind}"] for part in ("query", "key", "value")]
            state[f"{block}.attn.qkv.{kind}"] = torch.cat(qkv)
            state[f"{block}.attn.proj.{kind}"] = encoder[f"{layer}.attention.output.dense.{kind}"]
            for name in ("norm1", "norm2", "mlp.fc1", "mlp.fc2"):
                state[f"{block}.{name}.{kind}"] = encoder[f"{layer}.{name}.{kind}"]
    return state


def as_rae_publishes(decoder: dict[str, Tensor]) -> dict[str, Tensor]:
    """diffusers' decoder under the names of its authors' file."""
    names = {"to_q": "attention.query", "to_k": "attention.key", "to_v": "attention.value", "to_out.0": "output.dense"}
    state = {}
    for key, tensor in decoder.items():
        for a, b in names.items():
            key = key.replace(f"attention.{a}", f"attention.{b}")
        state[key] = tensor
    return state


@pytest.fixture
def ours(theirs, tmp_path, monkeypatch) -> Path:
    """The same weights in the authors' files."""
    state = diffusers.AutoencoderRAE.from_pretrained(theirs).state_dict()
    part = lambda prefix: {k.removeprefix(prefix): w for k, w in state.items() if k.startswith(prefix)}  # noqa: E731
    small = (("embed_dim", 64), ("depth", 2), ("num_heads", 1))
    model = VisionModel("vit_small_patch14_reg4_dinov2.lvd142m", 14, arguments=small)
    monkeypatch.setitem(ENCODERS, "tiny", EncoderSpec(64, 16, model, "dinov2", "self-supervised"))
    recipe = AutoencoderSpec("nobody/ours", 64, 2, architecture={**DECODER, "patch_size": 2}, rae=Recipe("tiny"))
    monkeypatch.setitem(SPECS, "rae_dinov2_b", recipe)
    monkeypatch.setenv("DIFFX_WEIGHTS", str(tmp_path))
    torch.save(as_meta_publishes(part("encoder.")), tmp_path / "tiny.pth")
    folder = tmp_path / "rae_dinov2_b"
    folder.mkdir()
    torch.save(as_rae_publishes(part("decoder.")), folder / "model.pt")
    deviation = state["_latents_std"] + 1e-5  # theirs divides by this, the authors by sqrt(var + 1e-5)
    torch.save({"mean": state["_latents_mean"], "var": deviation**2 - autoencoder_rae.EPS}, folder / "stat.pt")
    return folder


@torch.no_grad()
def test_our_encoder_decoder_and_statistics_are_those_of_diffusers(theirs, ours):
    a, b = load_autoencoder(str(theirs)), load_autoencoder("rae_dinov2_b")
    raw = torch.randn(2, 64, 16, 16)
    torch.testing.assert_close(b.encode(IMAGES), a.encode(IMAGES), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(b.decode(raw), a.decode(raw), rtol=1e-4, atol=1e-4)


def test_an_rae_in_diffusers_layout_is_read_under_our_name_without_a_file_of_the_encoder(theirs, ours, tmp_path):
    for file in (*ours.iterdir(), tmp_path / "tiny.pth"):
        file.unlink()
    for file in theirs.iterdir():
        (ours / file.name).symlink_to(file)
    network = load_autoencoder("rae_dinov2_b")
    assert (network.name, network.shift, network.scale) == ("rae_dinov2_b", [0.0], [1.0])
    assert torch.equal(network.encode(IMAGES), load_autoencoder(str(theirs)).encode(IMAGES))


def test_weights_that_another_transformers_wrote_are_all_read(theirs, tmp_path):
    old, name = tmp_path / "old", "diffusion_pytorch_model.safetensors"
    old.mkdir()
    (old / "config.json").symlink_to(theirs / "config.json")
    state = {as_transformers_4(key): tensor for key, tensor in load_file(theirs / name).items()}
    save_file(state, old / name)
    assert torch.equal(load_autoencoder(str(old)).encode(IMAGES), load_autoencoder(str(theirs)).encode(IMAGES))
    state.pop("encoder.encoder.layer.0.norm1.weight")
    save_file(state, old / name)
    with pytest.raises(DiffxError, match=r"network differ in encoder\.encoder\.layer\.0\.norm1\.weight"):
        load_autoencoder(str(old))


def test_without_transformers_its_encoder_is_asked_for_in_a_sentence(theirs, monkeypatch):
    monkeypatch.setattr(diffusers.utils, "is_transformers_available", lambda: False)
    with pytest.raises(DiffxError, match=r"is a AutoencoderRAE, which takes transformers .* pip install -U"):
        load_autoencoder(str(theirs))
