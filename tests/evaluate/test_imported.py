"""Official files and imported models are sampled and measured from the command line, as runs are."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from diffx.checkpoint import import_file, open_backbone
from diffx.commands.evaluate import main as evaluate
from diffx.commands.probe import main as probe
from diffx.commands.sample import main as sample
from diffx.frozen.autoencoder import load_autoencoder
from diffx.objective import DDPM, EDM, Interpolant
from diffx.pixels.values import to_uint8
from diffx.sampler import Ancestral, EDMHeun, Euler, Field, SampleNoise
from tests.checkpoint.official_files import Official, official
from tests.evaluate.conftest import Refusal
from tests.prepare.made_sources import tiny_autoencoder

MEASURED = {  # a family with images of four channels, and how its samples are made
    "dit": (DDPM(), Ancestral(3), "sampler.nfe=3"),
    "repa": (Interpolant(), Euler(3), "sampler.nfe=3"),
    "uvit": (DDPM(betas="sqrt_linear", variance="fixed"), Ancestral(3), "sampler.nfe=3"),
    "tread": (EDM(), EDMHeun(5), "sampler.nfe=5"),
}
FEW = ["eval.batch_size=4", "eval.samples=4", "eval.labels=balanced"]


@pytest.fixture
def there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working directory but for a small autoencoder, which "vae" names."""
    monkeypatch.chdir(tmp_path)
    tiny_autoencoder(tmp_path / "vae")
    return tmp_path


def typed(file: Official, name: str = "official.pt") -> list[str]:
    """The file on disk, and what a user types of it."""
    torch.save({"ema": file.weights, "model": file.weights}, name)
    sizes = [f"backbone.{setting}" for setting in file.settings]
    return [name, "--as", file.name, *sizes, "--decoder", "vae"]


@torch.no_grad()
@pytest.mark.parametrize("family", MEASURED)
def test_an_official_file_is_sampled_as_its_network_samples(family: str, there: Path) -> None:
    objective, sampler, nfe = MEASURED[family]
    sample([*typed(official(family)), nfe, *FEW, "-n", "4", "--seed", "3"])
    drawn = np.load("official/samples/samples.npz")["arr_0"]
    backbone, labels = open_backbone(Path("official")), torch.arange(4) % 10
    noise = SampleNoise(3, range(4))
    field = Field(backbone, objective, labels, backbone.null_condition(labels))
    x = sampler(field, noise.draw(backbone.shape), noise).float()
    images = to_uint8(load_autoencoder("vae").decode(x / 0.18215), "nearest")
    assert np.array_equal(drawn, images.permute(0, 2, 3, 1).numpy())


def test_it_is_imported_once_and_its_folder_is_sampled_alike(there: Path, refusal: Refusal) -> None:
    arguments = [*typed(official("dit")), "sampler.nfe=3", *FEW, "-n", "4"]
    sample([*arguments, "-o", "first"])
    sample([*arguments, "-o", "again"])
    sample(["official", "--decoder", "vae", "sampler.nfe=3", *FEW, "-n", "4", "-o", "folder"])
    drawn = [np.load(f"{name}.npz")["arr_0"] for name in ("first", "again", "folder")]
    assert all(np.array_equal(one, drawn[0]) for one in drawn)
    assert "before: depth=4 and not 3. Move it away" in refusal(sample, [*arguments, "backbone.depth=3"])
    assert "before: weights=ema and not model. Move" in refusal(sample, [*arguments, "--weights", "model"])
    torch.save(official("dit").weights, "official.pt")
    assert "before: from an earlier file of this name. Move it away" in refusal(sample, arguments)


def test_what_an_import_has_to_say_is_said_when_the_file_is_sampled_first(there: Path, capsys) -> None:
    arguments = [*typed(official("mdt")), "sampler.nfe=3", *FEW, "-n", "2"]
    sample(arguments)
    assert "a null label of zeros was added; guidance will not work" in capsys.readouterr().out
    sample(arguments)
    assert "null label" not in capsys.readouterr().out


def test_the_probe_says_that_an_imported_model_is_no_run(there: Path, refusal: Refusal) -> None:
    dit = official("dit")
    torch.save(dit.weights, "dit.pt")
    import_file(Path("dit.pt"), dit.name, Path("model"), changes=dit.settings)
    assert "model is an imported model, and this is for runs" in refusal(probe, ["model"])


def test_a_file_of_weights_is_not_taken_for_images(there: Path, refusal: Refusal) -> None:
    typed(official("dit"))
    assert "official.pt is a file of weights; type also --as" in refusal(evaluate, ["official.pt"])


def test_a_network_of_two_streams_is_sampled_without_the_plugin_that_trained_it(there: Path) -> None:
    sample([*typed(official("reg")), "sampler.nfe=3", *FEW, "-n", "4"])
    assert np.load("official/samples/samples.npz")["arr_0"].shape == (4, 16, 16, 3)


class Brightness:
    """Metrics in the place of the ADM suite, whose weights are large: the samples' mean."""

    identity, networks, metrics = "brightness", (), {}

    def __init__(self, **given: object) -> None: ...

    def __call__(self, batches) -> dict[str, float]:
        return {"brightness": float(torch.cat(list(batches)).float().mean())}


def test_an_official_file_is_measured_under_a_protocol_and_the_values_are_kept_with_it(
    there: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("diffx.metrics.ADMMetrics", Brightness)
    arguments = [*typed(official("dit")), "--protocol", "dit_cfg", "sampler.nfe=3", *FEW, "--guidance", "1", "2"]
    evaluate(arguments)
    assert "values_dit_cfg_guidance_2.json" in capsys.readouterr().out
    found = {scale: json.loads(Path(f"official/values_dit_cfg_guidance_{scale}.json").read_text()) for scale in (1, 2)}
    samples = np.load("official/samples/dit_cfg_guidance_2.npz")["arr_0"]
    assert found[2]["values"]["brightness"] == pytest.approx(samples.mean())
    facts = found[2]["protocol_facts"]
    assert (facts["guidance"]["scale"], facts["guidance"]["channels"], facts["decoder"]) == (2.0, 3, "vae")
    assert facts["sampler"] == {"_target_": "diffx.sampler.Ancestral", "nfe": 3}
    assert found[1]["protocol"] != found[2]["protocol"]


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["model", "--ema", "0.5"], "--ema 0.5 is for runs, and model is an imported model"),
        (["dit.pt"], "of an official file type also --as FAMILY-SIZE-PATCH"),
        (["dit.pt", "--as", "dat-xl-2"], "--as dat-xl-2 is not known"),
        (["nothing.pt", "--as", "dit-xl-2"], "nothing.pt does not exist"),
        (["model", "--data", "digits"], "data=digits has latents of 1x16x16 and model takes 4x8x8"),
        (["model", "sampler=euler"], "which DDPM does not have; type sampler=ancestral"),
        (["model", "--decoder", "./none"], "autoencoder=./none is not a folder"),
    ],
    ids=str,
)
def test_what_cannot_be_sampled_is_said(arguments: list[str], sentence: str, there: Path, refusal: Refusal) -> None:
    dit = official("dit")
    torch.save(dit.weights, "dit.pt")
    import_file(Path("dit.pt"), dit.name, Path("model"), changes=dit.settings)
    assert sentence in refusal(sample, [*arguments, "-n", "2"])


def test_latents_are_not_decoded_by_an_autoencoder_of_other_channels(there: Path, refusal: Refusal) -> None:
    arguments = [*typed(official("lightningdit")), "-n", "2"]
    assert "vae decodes latents of 4 channels, and this network makes some of 32" in refusal(sample, arguments)
    assert "autoencoder" in (said := refusal(sample, ["official", "-n", "2"]))
    assert "va_vae" in said  # which is LightningDiT's, and not here
    other = [*typed(official("sr-dit"), "other.pt")[:-2], "-n", "2"]
    assert "latents of 32 channels" in refusal(sample, other)
