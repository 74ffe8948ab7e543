"""FID's Inception: torch-fidelity's features from the same file, TensorFlow's resize, weights found or asked for."""

from pathlib import Path

import pytest
import torch
from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3
from torch_fidelity.interpolate_compat_tensorflow import interpolate_bilinear_2d_like_tensorflow1x

from diffx.errors import DiffxError
from diffx.features.inception import NAMES, Inception, find_weights, load_inception, resize_like_tensorflow


def relative(ours: torch.Tensor, theirs: torch.Tensor) -> float:
    return ((ours - theirs).norm() / theirs.norm()).item()


@pytest.fixture(scope="module")
def oracle(weights: Path) -> FeatureExtractorInceptionV3:
    return FeatureExtractorInceptionV3("x", ["2048", "logits_unbiased"], feature_extractor_weights_path=str(weights))


def test_features_are_torch_fidelitys(
    network: Inception, oracle: FeatureExtractorInceptionV3, fake: torch.Tensor
) -> None:
    spatial = []
    hook = oracle.Mixed_6d.branch1x1.register_forward_hook(lambda module, inputs, out: spatial.append(out[:, :7]))
    found, (pool, logits) = network(fake[:4]), oracle(fake[:4])
    hook.remove()
    rows_then_channels = spatial[0].permute(0, 2, 3, 1).reshape(4, 2023)
    assert relative(found.pool, pool) < 1e-6
    assert relative(found.logits, logits) < 1e-6
    assert relative(found.spatial, rows_then_channels) < 1e-6
    assert pool.std(0).mean() > 0.05, "features that hardly differ would agree by themselves"
    assert relative(spatial[0].flatten(1), rows_then_channels) > 0.1, "the order of sFID's features must be visible"


def test_the_layout_is_the_published_files() -> None:
    with torch.device("meta"):
        state = Inception().state_dict()
    assert len(state) == 472
    assert sum(tensor.numel() for tensor in state.values()) * 4 == 95_541_568
    assert state["fc.weight"].shape == (1008, 2048)
    assert not any("num_batches_tracked" in name for name in state)


@pytest.mark.parametrize("size", [(32, 32), (96, 96), (256, 256), (299, 299), (512, 512), (200, 320)])
def test_the_resize_is_tensorflows_to_the_last_bit(size: tuple[int, int]) -> None:
    images = torch.randint(256, (1, 3, *size), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    theirs = interpolate_bilinear_2d_like_tensorflow1x(images.float(), size=(299, 299), align_corners=False)
    assert torch.equal(resize_like_tensorflow(images, 299), theirs)


def test_the_resize_is_not_torchs() -> None:
    images = torch.randint(256, (1, 3, 256, 256), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    torchs = torch.nn.functional.interpolate(images.float(), (299, 299), mode="bilinear")
    assert (resize_like_tensorflow(images, 299) - torchs).abs().mean() > 1


def test_grey_images_count_as_three_equal_channels(network: Inception, fake: torch.Tensor) -> None:
    grey = fake[:1, :1]
    assert torch.equal(network(grey).pool, network(grey.expand(-1, 3, -1, -1)).pool)


def test_autocast_does_not_reach_it(network: Inception, fake: torch.Tensor) -> None:
    plain = network(fake[:1]).pool
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(network(fake[:1]).pool, plain)


@pytest.mark.parametrize("images", [torch.zeros(2, 3, 8, 8), torch.zeros(2, 4, 8, 8, dtype=torch.uint8)])
def test_other_images_are_refused(images: torch.Tensor) -> None:
    with torch.device("meta"):
        network = Inception()
    with pytest.raises(DiffxError, match="uint8 images"):
        network(images)


@pytest.fixture
def nowhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """No weights in any of the usual places."""
    for name in ("DIFFX_INCEPTION_WEIGHTS", "DIFFX_WEIGHTS"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("DIFFX_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    return tmp_path


def test_missing_weights_are_one_sentence_with_the_ways_to_provide_them(nowhere: Path) -> None:
    with pytest.raises(DiffxError) as error:
        find_weights()
    message = str(error.value)
    for way in (NAMES[0], "eval.metrics.weights", "DIFFX_INCEPTION_WEIGHTS", "eval=embedded", str(nowhere / "home")):
        assert way in message
    assert "\n" not in message


def test_weights_are_looked_for_in_the_documented_order(nowhere: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hub = nowhere / "torch" / "hub" / "checkpoints" / NAMES[0]
    folder = nowhere / "home" / "weights" / NAMES[1]
    variable, setting = nowhere / "variable.pth", nowhere / "setting.pth"
    for file in (hub, folder, variable, setting):
        file.parent.mkdir(parents=True, exist_ok=True)
        file.touch()
        if file == variable:
            monkeypatch.setenv("DIFFX_INCEPTION_WEIGHTS", str(variable))
        assert find_weights(str(setting) if file == setting else None) == file


def test_a_path_that_is_no_file_is_named_with_its_setting(nowhere: Path) -> None:
    with pytest.raises(DiffxError, match=r"eval\.metrics\.weights=.*gone\.pth is not a file"):
        find_weights(str(nowhere / "gone.pth"))


def test_another_hash_than_the_published_one_is_said(weights: Path, capsys: pytest.CaptureFixture[str]) -> None:
    _, sha256 = load_inception(str(weights))
    assert f"begins with {sha256}, not 6726825d" in capsys.readouterr().out


def test_a_file_of_another_network_is_refused_by_its_first_difference(tmp_path: Path) -> None:
    torch.save({"Conv2d_1a_3x3.conv.weight": torch.zeros(1)}, tmp_path / "other.pth")
    with pytest.raises(DiffxError, match=r"Conv2d_1a_3x3\.conv\.weight is \(1,\) and not \(32, 3, 3, 3\)"):
        load_inception(str(tmp_path / "other.pth"))


def test_a_file_that_could_execute_is_refused(tmp_path: Path) -> None:
    torch.save({"network": Path("a class that is no tensor")}, tmp_path / "pickle.pth")
    with pytest.raises(DiffxError, match="execute"):
        load_inception(str(tmp_path / "pickle.pth"))
