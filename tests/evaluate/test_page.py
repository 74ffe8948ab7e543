"""Every command of docs/evaluation.md runs on a small run, or asks for weights and for nothing else."""

import re
import shlex
from itertools import product
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from safetensors.torch import load_file

from diffx.checkpoint.post_hoc import LENGTHS, write_snapshot
from diffx.commands import evaluate, probe, sample
from diffx.run.folder import RunDir
from diffx.store.sealed import facts_of

PAGE = (Path(__file__).parents[2] / "docs" / "evaluation.md").read_text()
COMMANDS = {"diffx.sample": sample.main, "diffx.evaluate": evaluate.main, "diffx.probe": probe.main}
FEW = {"diffx.sample": ["-n", "4", "sampler.nfe=3"], "diffx.evaluate": ["eval.samples=8"], "diffx.probe": []}
ASKS = "The weights of FID's Inception are not here"
OFFICIAL = "DiT-XL-2-256x256.pt"  # 2.7 GB, which no test makes; test_imported.py has small ones


def typed() -> list[str]:
    """The lines of its shell blocks, and the settings of its table of published numbers."""
    blocks = [block for kind, block in re.findall(r"^```(\w*)\n(.*?)^```$", PAGE, re.DOTALL | re.MULTILINE) if not kind]
    lines = [line.partition("#")[0].strip() for block in blocks for line in block.splitlines()]
    published = re.findall(r"`(--protocol [^`]+)` \|$", PAGE, re.MULTILINE)
    lines += [f"python -m diffx.evaluate RUN {settings}" for settings in published]
    return [line for line in lines if line.split()[2] in COMMANDS]


@pytest.fixture
def place(run: RunDir, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A folder with a run, an .npz and pictures, and no weights anywhere."""
    for variable in ("TORCH_HOME", "DIFFX_WEIGHTS"):
        monkeypatch.setenv(variable, str(tmp_path / "nothing"))
    monkeypatch.delenv("DIFFX_INCEPTION_WEIGHTS", raising=False)
    images = np.zeros((4, 16, 16, 3), np.uint8)
    np.savez(tmp_path / "FILE.npz", images)
    for folder in ("FOLDER", "probes"):
        (tmp_path / folder).mkdir()
    Image.fromarray(images[0]).save(tmp_path / "FOLDER" / "0.png")
    for step, length in product((5, 10), LENGTHS):
        write_snapshot(run, step, length, load_file(run.ema_weights), facts_of(run.ema_weights)["run"])
    config = (run.path / "config.yaml").read_text()
    (run.path / "config.yaml").write_text(config.replace("- 0.5", "- 0.999\n- 0.9999"))
    for decay in (0.999, 0.9999):
        run.more_ema_weights(decay).write_bytes(run.ema_weights.read_bytes())
    return run.path.rename(tmp_path / "RUN")


@pytest.mark.slow
@pytest.mark.parametrize("line", typed())
def test_a_command_of_the_page(line: str, place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    _, _, module, *arguments = shlex.split(line)
    if OFFICIAL in arguments:
        with pytest.raises(SystemExit):
            COMMANDS[module](arguments)
        assert f"{OFFICIAL} does not exist" in capsys.readouterr().err
    elif module == "diffx.evaluate" and ("--protocol" in arguments or arguments[0] != "RUN"):
        with pytest.raises(SystemExit):
            COMMANDS[module](arguments)
        assert ASKS in capsys.readouterr().err
    else:
        COMMANDS[module]([*arguments, *FEW[module]])


def test_the_page_has_commands_of_every_kind() -> None:
    assert {line.split()[2] for line in typed()} == set(COMMANDS)
    assert len(typed()) > 12
