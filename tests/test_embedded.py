"""The embedded networks: three that differ, shipped for the default data, else trained once and cached."""

import shutil
from collections.abc import Callable

import pytest
import torch

from diffx.assemble.services import make_encoder
from diffx.data import Digits, Shapes
from diffx.embedded import __main__ as command
from diffx.embedded import networks as embedded
from diffx.embedded import shipped, training
from diffx.embedded.architecture import TokenEncoder
from diffx.embedded.networks import Recipe
from diffx.errors import DiffxError
from diffx.frozen.encoder import encoder_spec

MAKERS = [embedded.encoder, embedded.supervised, embedded.self_supervised]
RECIPES = [embedded.ENCODER, embedded.SUPERVISED, embedded.SELF_SUPERVISED]
STEPS = training.STEPS
each_network = pytest.mark.parametrize("make", MAKERS, ids=lambda make: make.__name__)
each_recipe = pytest.mark.parametrize("recipe", RECIPES, ids=lambda recipe: recipe.role)


@pytest.fixture(autouse=True)
def home(monkeypatch, tmp_path):
    """An empty cache folder, and a training of five steps."""
    monkeypatch.setenv("DIFFX_HOME", str(tmp_path))
    monkeypatch.setattr(training, "STEPS", 5)
    return tmp_path


def forbid_training(monkeypatch: pytest.MonkeyPatch) -> None:
    def train(*_: object) -> None:
        raise AssertionError("a network was trained again")

    monkeypatch.setattr(training, "descend", train)


def weights(network: torch.nn.Module) -> torch.Tensor:
    return torch.cat([tensor.flatten() for tensor in network.state_dict().values()])


@each_recipe
@pytest.mark.parametrize("data", [Digits, Shapes])
def test_the_network_of_the_default_data_comes_with_diffx(recipe: Recipe, data: type, monkeypatch, home):
    monkeypatch.setattr(training, "STEPS", STEPS)
    forbid_training(monkeypatch)
    getattr(embedded, recipe.role)(data())
    assert not list(home.rglob("*.safetensors"))


@each_recipe
def test_a_shipped_network_is_as_good_as_its_record_says(recipe: Recipe, monkeypatch):
    monkeypatch.setattr(training, "STEPS", STEPS)
    network, data = getattr(embedded, recipe.role)(Digits()), Digits()
    said = shipped.records()[f"digits-{recipe.role}"]["linear_probe_accuracy"]
    # Rounding on another processor may put an image or two of the 500 on the probe's other side.
    assert embedded.quality(recipe, network, data) == pytest.approx(said, abs=2.5 / 500)


@each_recipe
def test_an_altered_shipped_file_is_refused(recipe: Recipe, monkeypatch, tmp_path):
    monkeypatch.setattr(training, "STEPS", STEPS)
    monkeypatch.setattr(shipped, "FOLDER", shutil.copytree(shipped.FOLDER, tmp_path / "weights"))
    path = tmp_path / "weights" / f"digits-{recipe.role}.safetensors"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    with pytest.raises(DiffxError, match="not the file that came with diffx"):
        getattr(embedded, recipe.role)(Digits())


def test_a_shipped_file_that_is_absent_is_missed(monkeypatch, tmp_path):
    monkeypatch.setattr(training, "STEPS", STEPS)
    monkeypatch.setattr(shipped, "FOLDER", shutil.copytree(shipped.FOLDER, tmp_path / "weights"))
    (tmp_path / "weights" / "digits-encoder.safetensors").unlink()
    with pytest.raises(DiffxError, match="Reinstall diffx"):
        embedded.encoder(Digits())


def test_the_command_writes_networks_that_are_found(monkeypatch, tmp_path):
    monkeypatch.setattr("diffx.data.shapes.REFERENCE_COUNT", 20)
    monkeypatch.setattr(command, "Shapes", lambda: Shapes(40))
    command.main(tmp_path / "weights")
    monkeypatch.setattr(shipped, "FOLDER", tmp_path / "weights")
    forbid_training(monkeypatch)
    for make in MAKERS:
        make(Digits())
        make(Shapes(40))


@each_network
def test_the_same_network_comes_out_each_time(make: Callable, monkeypatch, tmp_path):
    torch.manual_seed(0)
    first = make(Digits(8))
    monkeypatch.setenv("DIFFX_HOME", str(tmp_path / "elsewhere"))
    torch.manual_seed(1)
    assert torch.equal(weights(first), weights(make(Digits(8))))


@each_network
def test_the_second_time_it_is_read_from_the_cache(make: Callable, monkeypatch):
    first = make(Digits(8))
    forbid_training(monkeypatch)
    assert torch.equal(weights(first), weights(make(Digits(8))))


@each_network
def test_the_callers_random_numbers_are_left_alone_trained_or_read(make: Callable):
    state = torch.get_rng_state()
    for _ in range(2):
        make(Digits(8))
        assert torch.equal(torch.get_rng_state(), state)


@each_network
def test_it_is_frozen_and_trained_even_where_gradients_are_off(make: Callable):
    with torch.no_grad():
        network = make(Digits(8))
    assert not network.training
    assert not any(parameter.requires_grad for parameter in network.parameters())


@each_network
def test_its_quality_is_printed_once_in_one_line(make: Callable, capsys):
    make(Digits(8))
    make(Digits(8))
    [line] = capsys.readouterr().out.splitlines()
    assert line.startswith(f"embedded {make.__name__} of digits: a linear probe classifies ")


@each_network
@pytest.mark.parametrize("size", [8, 12])
def test_it_is_made_for_colour_images_of_any_size_that_shapes_have(make: Callable, size: int, monkeypatch):
    monkeypatch.setattr("diffx.data.shapes.REFERENCE_COUNT", 20)
    data = Shapes(count=40, size=size)
    network = make(data)
    tokens = network(data.reference(), 1) if make is embedded.encoder else network(data.reference())
    assert len(tokens) == 20
    assert tokens.isfinite().all()


def test_the_three_differ_in_shape_and_in_what_they_see():
    networks = [make(Digits(8)) for make in MAKERS]
    assert len({tuple(tuple(p.shape) for p in network.parameters()) for network in networks}) == 3
    images = Digits(8).reference()
    sup, ssl = (network(images) for network in networks[1:])
    correlation = torch.corrcoef(torch.cat([sup, ssl], dim=1).T)[:64, 64:]
    assert correlation.abs().max() < 0.99


@pytest.mark.parametrize("make", MAKERS[1:], ids=lambda make: make.__name__)
def test_features_are_standardised_over_the_training_images(make: Callable):
    data = Digits(8)
    features = make(data)(data.batch(torch.arange(len(data)))["image"])
    torch.testing.assert_close(features.mean(0), torch.zeros(64), rtol=0, atol=1e-3)
    torch.testing.assert_close(features.std(0), torch.ones(64), rtol=1e-3, atol=0)


@pytest.mark.slow
def test_forty_steps_teach_the_classifier_more_digits_than_five(monkeypatch, capsys):
    accuracy = []
    for steps in (5, 40):
        monkeypatch.setattr(training, "STEPS", steps)
        embedded.supervised(Digits(16))
        accuracy.append(float(capsys.readouterr().out.rpartition("classifies ")[2].partition("%")[0]))
    assert accuracy[1] > max(95, accuracy[0])


@torch.no_grad()
def unlikeness_of_views(network: TokenEncoder, images: torch.Tensor) -> float:
    """Squared distance between noisy and clean images, as a share of that between different images."""
    noise = 40 * torch.randn(images.shape, generator=torch.Generator().manual_seed(0))
    noisy = (images + noise).clamp(0, 255).to(torch.uint8)
    clean, damaged = network(images, 1), network(noisy, 1)
    return float((clean - damaged).square().sum() / (clean - clean.roll(1, dims=0)).square().sum())


@pytest.mark.slow
def test_the_encoder_learns_to_see_past_noise(monkeypatch):
    torch.manual_seed(0)
    images = Digits(16).reference()
    untrained = unlikeness_of_views(TokenEncoder(1), images)
    monkeypatch.setattr(training, "STEPS", 40)
    assert unlikeness_of_views(embedded.encoder(Digits(16)), images) < untrained / 2


def test_tokens_are_in_reading_order():
    torch.manual_seed(0)
    network = TokenEncoder(1)
    plain = torch.zeros(1, 1, 32, 32, dtype=torch.uint8)
    marked = plain.clone()
    marked[0, 0, 1, 30] = 255  # the upper right corner
    change = (network(marked, 4) - network(plain, 4)).norm(dim=2)
    assert change.argmax() == 3


@pytest.mark.parametrize("side", [1, 2, 4, 8, 16])
def test_tokens_are_pooled_to_any_divisor_of_the_finest_grid(side):
    tokens = TokenEncoder(3)(torch.zeros(2, 3, 32, 32, dtype=torch.uint8), side)
    assert tokens.shape == (2, side**2, 128)


def test_pooled_tokens_are_means_of_finer_ones():
    torch.manual_seed(0)
    network, images = TokenEncoder(1), Digits(16).reference()[:3]
    fine, coarse = network(images, 8).view(3, 4, 2, 4, 2, 128), network(images, 4).view(3, 4, 4, 128)
    torch.testing.assert_close(coarse, fine.mean(dim=(2, 4)), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("side", [0, 3, 5, 32])
def test_a_grid_that_does_not_divide_the_finest_is_refused(side):
    with pytest.raises(DiffxError, match=f"16x16 tokens cannot be pooled to {side}x{side}"):
        TokenEncoder(3)(torch.zeros(1, 3, 32, 32, dtype=torch.uint8), side)


def test_the_encoder_is_what_its_entry_in_the_table_says():
    spec = encoder_spec("embedded")
    tokens = make_encoder("embedded", Digits(8), 4, "cpu")(Digits(8).reference()[:2])
    assert tokens.shape == (2, 16, spec.dim)
    assert spec.stride == TokenEncoder.stride
