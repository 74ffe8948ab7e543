"""Probing the blocks of a trained run."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from PIL import Image

from diffx.commands.probe import main
from diffx.config.compose import compose_config
from diffx.evaluation import block_probe
from diffx.evaluation.block_probe import block_outputs, time_at
from diffx.objective import DDPM, EDM, Interpolant
from diffx.run.folder import RunDir
from diffx.train.loop import train
from tests.evaluate.conftest import Refusal
from tests.run.conftest import small


@pytest.fixture
def probed(run: RunDir, capsys: pytest.CaptureFixture[str]) -> Callable[..., dict]:
    """Probe the small run, and return what probe.json holds."""

    def probed(*arguments: str) -> dict:
        main(["run", *arguments])
        return json.loads((run.path / "probe.json").read_text())

    return probed


def test_every_block_has_both_numbers_at_every_noise_level(probed: Callable[..., dict]) -> None:
    blocks = probed("--t", "0.1", "0.9")["blocks"]
    assert [(block["t"], block["depth"]) for block in blocks] == [(t, d) for t in (0.1, 0.9) for d in (1, 2, 3)]
    for block in blocks:
        assert 0 <= block["linear_probe"] <= 1
        assert -1 <= block["cknna"] <= 1


def test_less_noise_tells_more(probed: Callable[..., dict]) -> None:
    blocks = probed("--t", "0.05", "0.95")["blocks"]
    for clean, noisy in zip(blocks[:3], blocks[3:], strict=True):
        assert clean["linear_probe"] > noisy["linear_probe"] + 0.1
        assert clean["cknna"] > noisy["cknna"]


def test_probing_twice_gives_the_same_and_names_what_it_was_measured_on(probed: Callable[..., dict]) -> None:
    first = probed()
    assert probed() == first
    assert first["images"] == {"fit": 1297, "test": 500, "tested_on": "held-out images"}
    assert (first["encoder"], first["ema_decay"]) == ("embedded", 0.99)
    assert first["encoder_linear_probe"] > 0.9


def test_a_picture_a_table_and_a_last_line_that_says_where(run: RunDir, capsys: pytest.CaptureFixture[str]) -> None:
    main(["run"])
    said = capsys.readouterr().out.splitlines()
    assert said[-1] == "written to run/probe.json and run/probe.png"
    assert [line.split()[0] for line in said[-6:-2]] == ["block", "1", "2", "3"]
    with Image.open(run.path / "probe.png") as picture:
        assert picture.width > 1000


@pytest.mark.slow
@pytest.mark.parametrize(("plugin", "reads"), [("repa", {"repa": [1]}), ("tread", {}), ("mdt", {})])
def test_runs_of_every_method_are_probed_as_they_sample(
    plugin: str, reads: dict, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = train(compose_config(small(f"runs_dir={tmp_path}", plugins=(plugin,))))
    main([str(run.path), "-n", "200"])
    facts = json.loads((run.path / "probe.json").read_text())
    assert facts["reads"] == reads
    assert len(facts["blocks"]) == 3


def test_the_last_blocks_output_is_what_the_head_reads_in_a_forward(trained: RunDir) -> None:
    """With MDT's decoder position and skips too: the walk is the backbone's own."""
    from diffx.assemble.model import build_model

    model = build_model(compose_config(["plugins=[mdt]", "backbone.skips=true", "backbone.depth=6"]))
    backbone = model.backbone.eval()
    for parameter in backbone.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    heads = []
    backbone.final_layer.register_forward_pre_hook(lambda module, inputs: heads.append(inputs[0].mean(1)))
    x = torch.randn(3, 1, 16, 16)
    outputs = block_outputs(backbone, model.objective, x, 0.3, torch.device("cpu"))
    noise = torch.randn(x.shape, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        backbone(
            0.7 * x + 0.3 * noise, torch.full((3,), 0.3), backbone.null_condition(torch.zeros(3, dtype=torch.long))
        )
    assert len(outputs) == 6
    torch.testing.assert_close(outputs[-1], heads[-1])


@pytest.mark.parametrize(("objective", "time"), [(Interpolant(), 0.25), (DDPM(), 250), (EDM(), 1 / 3)])
def test_a_noise_level_is_found_in_every_objectives_own_time(objective, time: float) -> None:
    assert time_at(objective, 0.25) == pytest.approx(time, abs=1e-5)


def test_without_labelled_held_out_images_other_training_images_are_tested_on(
    probed: Callable[..., dict], monkeypatch: pytest.MonkeyPatch
) -> None:
    from diffx.data import Digits

    monkeypatch.delattr(Digits, "reference_labels")
    images = probed()["images"]
    assert images == {"fit": 648, "test": 648, "tested_on": "training images that the probe has not seen"}
    order = block_probe.permutation(1297, seed=0, epoch=0)
    assert not set(order[:648].tolist()) & set(order[648:1296].tolist())


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["run", "--t", "0.5", "1.5"], "--t 1.5 is no noise level"),
        (["run", "-n", "3"], "3 images are too few"),
        (["run", "--encoder", "embeded"], "encoder=embeded is not known"),
        (["run", "--encoder", "dinov2_vitb14"], "cannot be matched"),
        (["run", "--ema", "0.1"], "keeps the averages 0.99, 0.5"),
        (["nowhere"], "no run directory"),
        (["run", "-o", "run/config.yaml/probe"], "cannot be written"),
    ],
)
def test_bad_input_is_one_sentence(run: RunDir, arguments: list[str], words: str, refusal: Refusal) -> None:
    assert words in refusal(main, arguments)


def test_without_asking_a_probe_compares_with_the_encoder_that_the_run_was_aligned_to(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """data.encoder is only what plugins ask for unless they are told otherwise."""
    asked: list[str] = []

    def images(settings: object, count: int, encoder: str, *_: object) -> None:
        asked.append(encoder)
        raise KeyboardInterrupt

    monkeypatch.setattr(block_probe, "probed_images", images)
    monkeypatch.setattr(block_probe, "load_backbone", lambda *_: None)
    for plugins, wanted in (((), "dinov2_vits14"), (("repa",), "embedded")):
        chosen = ["plugins.repa.encoder=embedded"] if plugins else []
        settings = compose_config(small("data.encoder=dinov2_vits14", *chosen, plugins=plugins))
        with pytest.raises(KeyboardInterrupt):
            block_probe.probe_blocks(settings, tmp_path, [0.5], None, 100)
        assert asked[-1] == wanted
