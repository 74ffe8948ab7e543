"""The second feature space: DINOv2's class token as its authors compute it, and the distances in it."""

from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from safetensors.torch import save_file

from diffx.data import Shapes
from diffx.errors import DiffxError
from diffx.features.dinov2 import DINOv2, resampled, resize_like_pillow
from diffx.features.inception import Inception
from diffx.frozen.encoder import SPECS, EncoderSpec
from diffx.frozen.vision import IMAGENET, VisionModel
from diffx.metrics.adm import ADMMetrics
from diffx.metrics.reference import reference_images

TINY = {"patch_size": 14, "embed_dim": 32, "depth": 2, "num_heads": 2, "init_values": 1.0}


@pytest.fixture(autouse=True)
def own_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Empty folders, and a two-block DINOv2 under the name "dinov2_tiny"."""
    monkeypatch.setenv("DIFFX_HOME", str(tmp_path))
    monkeypatch.setenv("DIFFX_WEIGHTS", str(tmp_path / "weights"))
    monkeypatch.delenv("DIFFX_REFERENCES", raising=False)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    model = VisionModel("vit_small_patch14_dinov2.lvd142m", 14, arguments=tuple(TINY.items()))
    monkeypatch.setitem(SPECS, "dinov2_tiny", EncoderSpec(32, 16, model, "dinov2", "self-supervised"))


@pytest.fixture
def published(tmp_path: Path) -> dict[str, torch.Tensor]:
    """Random weights in timm's layout, whose position table is for 518 pixels as the published one, in their folder."""
    torch.manual_seed(0)
    network = timm.create_model("vit_small_patch14_dinov2", pretrained=False, num_classes=0, img_size=518, **TINY)
    state = {name: tensor + 0.05 * torch.randn(tensor.shape) for name, tensor in network.state_dict().items()}
    state["pos_embed"] = torch.randn(1, 1 + 37 * 37, 32)
    (tmp_path / "weights").mkdir()
    save_file(state, tmp_path / "weights" / "dinov2_tiny.safetensors")
    return state


def class_tokens(state: dict[str, torch.Tensor], images: torch.Tensor) -> np.ndarray:
    """As dgm-eval and DINOv2's code do it: Pillow's bicubic, ImageNet's colours, the table scaled by 16.1 / 37."""
    mean, std = (np.array(c) for c in IMAGENET)
    pictures = [Image.fromarray(image.permute(1, 2, 0).numpy()) for image in images.expand(-1, 3, -1, -1)]
    resized = [np.asarray(picture.resize((224, 224), Image.Resampling.BICUBIC)) for picture in pictures]
    prepared = torch.from_numpy((np.stack(resized) / 255 - mean) / std).permute(0, 3, 1, 2).float()
    table = state["pos_embed"]
    patches = table[:, 1:].reshape(1, 37, 37, 32).permute(0, 3, 1, 2)
    patches = torch.nn.functional.interpolate(patches, scale_factor=(16.1 / 37, 16.1 / 37), mode="bicubic")
    small = torch.cat([table[:, :1], patches.permute(0, 2, 3, 1).reshape(1, 256, 32)], dim=1)
    network = timm.create_model("vit_small_patch14_dinov2", pretrained=False, num_classes=0, img_size=224, **TINY)
    network.load_state_dict(state | {"pos_embed": small})
    with torch.no_grad():
        return network.eval().forward_features(prepared)[:, 0].double().numpy()


def test_features_are_the_class_token_of_images_prepared_with_pillow(published, real: torch.Tensor) -> None:
    expected = class_tokens(published, real)
    found = DINOv2("dinov2_tiny")(real)
    assert found.dtype == torch.float32
    assert np.abs(found.numpy() - expected).max() < 1e-4 * expected.std()


def test_grey_images_are_seen_as_colour(published, real: torch.Tensor) -> None:
    network, grey = DINOv2("dinov2_tiny"), real[:, :1]
    assert torch.equal(network(grey), network(grey.repeat(1, 3, 1, 1)))


@pytest.mark.parametrize("size", [32, 224, 256, 500])
def test_images_are_resized_as_pillow_does_up_to_one_level(size: int) -> None:
    image = torch.randint(256, (1, 3, size, size), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    picture = Image.fromarray(image[0].permute(1, 2, 0).numpy()).resize((224, 224), Image.Resampling.BICUBIC)
    difference = resize_like_pillow(image, 224)[0].permute(1, 2, 0).numpy() - np.asarray(picture).astype(float)
    assert np.abs(difference).max() <= 1
    assert np.abs(difference).mean() < 2e-3


def test_a_position_table_is_scaled_by_a_tenth_of_a_token_more_than_the_grid() -> None:
    """Interpolation nearly keeps a ramp, so its values say where each token of the small grid reads the large one."""
    ramp = torch.arange(37.0).view(1, 1, 37, 1).expand(1, 37, 37, 1).reshape(1, 37 * 37, 1)
    table = torch.cat([torch.full((1, 1, 1), 9.0), ramp], dim=1)
    small = resampled(table, 16, registers=False)
    assert small[0, 0, 0] == 9
    rows = small[0, 1:, 0].view(16, 16)
    expected = (torch.arange(16) + 0.5) * 37 / 16.1 - 0.5
    assert torch.allclose(rows[1:-1, 1:-1], expected[1:-1].expand(14, -1), atol=0.06)


@pytest.mark.parametrize("images", [torch.zeros(2, 3, 8, 8), torch.zeros(2, 4, 8, 8, dtype=torch.uint8)])
def test_anything_but_images_is_refused(published, images: torch.Tensor) -> None:
    with pytest.raises(DiffxError, match="takes uint8 images"):
        DINOv2("dinov2_tiny")(images)


def test_an_encoder_of_another_family_is_refused() -> None:
    with pytest.raises(DiffxError, match="type dinov2_vitl14, or null"):
        DINOv2("clip_vitl14")


def test_missing_weights_are_one_sentence_that_names_the_way_without_them() -> None:
    with pytest.raises(DiffxError) as error:
        DINOv2("dinov2_vitl14")
    for way in ("dinov2_vitl14.safetensors", "hf download timm/vit_large_patch14_dinov2", "eval.metrics.dinov2=null"):
        assert way in str(error.value)
    assert "\n" not in str(error.value)


@pytest.fixture
def reference(tmp_path: Path, real: torch.Tensor) -> str:
    np.savez(tmp_path / "reference.npz", arr_0=real.permute(0, 2, 3, 1).numpy())
    return str(tmp_path / "reference.npz")


@pytest.mark.slow
def test_the_distances_in_dinov2_are_those_of_its_class_tokens(
    published, reference: str, weights: Path, real: torch.Tensor, fake: torch.Tensor
) -> None:
    metrics = ADMMetrics(None, reference, str(weights), "dinov2_tiny")
    values = metrics(fake.split(5))
    assert list(values)[-2:] == ["fd_dinov2_tiny_12", "kdd_dinov2_tiny_12"]
    samples, known = class_tokens(published, fake), class_tokens(published, real)
    # With fewer images than dimensions, the distance is exact from the centred features themselves.
    a, b = ((x - x.mean(0)) / np.sqrt(len(x) - 1) for x in (samples, known))
    shift = ((samples.mean(0) - known.mean(0)) ** 2).sum()
    fd = shift + (a**2).sum() + (b**2).sum() - 2 * np.linalg.norm(a @ b.T, "nuc")
    assert values["fd_dinov2_tiny_12"] == pytest.approx(fd, rel=1e-3)

    def kernel(a: np.ndarray, b: np.ndarray) -> np.ndarray:
        return (a @ b.T / 32 + 1) ** 3

    within = [(k.sum() - np.trace(k)) / (len(k) * (len(k) - 1)) for k in (kernel(x, x) for x in (samples, known))]
    kdd = sum(within) - 2 * kernel(samples, known).mean()
    assert values["kdd_dinov2_tiny_12"] == pytest.approx(kdd, rel=1e-3)


@pytest.mark.slow
def test_the_card_and_the_protocol_name_the_second_network(
    published, reference: str, weights: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    metrics = ADMMetrics(None, reference, str(weights), "dinov2_tiny")
    assert metrics.networks[-1] == {"name": "dinov2_tiny", "family": "dinov2", "training": "self-supervised"}
    without = ADMMetrics(None, reference, str(weights))
    assert [network["name"] for network in without.networks] == ["inception"]
    assert without.identity != metrics.identity
    monkeypatch.setattr(DINOv2, "__call__", lambda *_: pytest.fail("real images are looked at again"))
    assert ADMMetrics(None, reference, str(weights), "dinov2_tiny").identity == metrics.identity


def test_missing_weights_are_said_before_any_statistics_are_computed(
    weights: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Inception, "forward", lambda *_: pytest.fail("statistics are computed"))
    with pytest.raises(DiffxError, match=r"dinov2_vitl14: its weights.*eval\.metrics\.dinov2=null"):
        ADMMetrics(Shapes(count=4), "own", str(weights), "dinov2_vitl14")


def test_a_reference_without_images_is_refused_with_the_way_without(published, tmp_path: Path, weights: Path) -> None:
    np.savez(tmp_path / "moments.npz", mu=np.zeros(2048), sigma=np.eye(2048))
    with pytest.raises(DiffxError, match=r"no images.*eval\.metrics\.dinov2=null"):
        ADMMetrics(None, str(tmp_path / "moments.npz"), str(weights), "dinov2_tiny")


def test_the_images_of_own_are_the_training_images() -> None:
    images = reference_images("own", Shapes(count=7))
    assert images.count == 7
    assert torch.equal(torch.cat(list(images.batches(3, 0, 1))), Shapes(count=7).batch(torch.arange(7))["image"])
