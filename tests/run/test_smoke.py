"""docs/imagenet.md can be lived through without ImageNet, weights or a network."""

import re
import shlex
from pathlib import Path

import pytest
import torch

from diffx.commands.prepare import main as prepare
from diffx.config.compose import compose_config
from diffx.features.inception import load_inception
from diffx.frozen.autoencoder import load_autoencoder
from diffx.frozen.encoder import encoder_spec
from diffx.train.loop import train

PAGE = Path(__file__).parents[2] / "docs" / "imagenet.md"


def test_the_commands_of_the_page_train_and_measure_with_random_weights(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    # Eigenvalues of 2048 x 2048 take most of a minute, and tests/metrics_adm has them.
    monkeypatch.setattr("diffx.metrics.frechet.frechet_distance", lambda a, b: float((a.mean - b.mean).norm()))
    (block,) = (b for b in re.findall(r"```sh\n(.*?)```", PAGE.read_text(), re.DOTALL) if "data/smoke" in b)
    made = re.search(r'python -c "(.*?)"', block, re.DOTALL)
    assert made
    exec(made.group(1).replace("count=64", "count=24").replace("arange(64)", "arange(24)"), {})
    lines = [shlex.split(line)[2:] for line in block.splitlines() if line.startswith("python -m")]
    for module, *arguments in lines:
        if module == "diffx.prepare":
            assert prepare(arguments) == 0
    (typed,) = (arguments for module, *arguments in lines if module == "diffx" and "-m" not in arguments)
    run = train(compose_config([*typed, "max_steps=2", "eval.samples=4", "logger=none", "trainer.accelerator=cpu"]))
    assert {"fid_4", "precision_4"} <= next(run.points())["values"].keys()
    said = capsys.readouterr().err
    for what in ("autoencoder", "encoder", "eval.metrics.weights"):
        assert f"{what}=random: weights that nobody has trained" in " ".join(said.split())
    assert run.read_record()["protocol"]["features"].endswith("inception random")


def test_random_networks_are_the_same_every_time() -> None:
    image = torch.randint(0, 256, (1, 3, 64, 64), dtype=torch.uint8)
    latents = [load_autoencoder("random").encode(image) for _ in range(2)]
    assert torch.equal(*latents)
    assert latents[0].shape == (1, 8, 8, 8)
    weights = [load_inception("random")[0].state_dict() for _ in range(2)]
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])
    assert encoder_spec("random").training == "none"
