"""A configuration from elsewhere names only what diffx and registered packages provide; --trust lifts it."""

from collections.abc import Callable
from pathlib import Path

import pytest

from diffx.commands import evaluate, probe, sample
from diffx.config.compose import compose_config
from diffx.config.parse import yaml_of
from diffx.config.read import read_settings, read_trusted_settings
from diffx.errors import DiffxError

STRANGE = {
    "a function of the standard library": ("diffx.sampler.Euler", "subprocess.run"),
    "a function of diffx": ("diffx.sampler.Euler", "diffx.processes.children.run_command"),
    "a class that a room has imported": ("diffx.backbone.DiT", "diffx.backbone.dit.nn.Module"),
    "a class of another role": ("diffx.data.Digits", "diffx.sampler.Euler"),
    "a function in place of an optimizer": ("torch.optim.AdamW", "os.system"),
    "a module of the working directory": ("diffx.sampler.Euler", "planted.Sampler"),
}


@pytest.fixture
def planted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder on the path whose module leaves a mark when it is imported."""
    (tmp_path / "planted.py").write_text("from pathlib import Path\nPath('mark').touch()\nclass Sampler: pass\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    return tmp_path


@pytest.mark.parametrize("case", STRANGE)
def test_a_stranger_is_refused_before_it_is_imported(case: str, planted: Path) -> None:
    own, strange = STRANGE[case]
    file = planted / "config.yaml"
    text = yaml_of(compose_config([]))
    assert own in text
    file.write_text(text.replace(own, strange))
    with pytest.raises(DiffxError, match="--trust"):
        read_settings(file)
    assert not (planted / "mark").exists()


@pytest.mark.parametrize(
    "chosen", ["plugins=[repa,mdt,tread]", "guidance=routed", "guidance=path_drop", "optimizer=adan", "data=shapes"]
)
def test_what_diffx_provides_is_read(chosen: str, tmp_path: Path) -> None:
    partner = {"guidance=routed": ["plugins=[tread]"], "guidance=path_drop": ["plugins=[sr_dit]"]}.get(chosen, [])
    settings = compose_config([chosen, *partner])
    (tmp_path / "config.yaml").write_text(yaml_of(settings))
    assert read_settings(tmp_path / "config.yaml") == settings


def test_a_file_of_ones_own_may_name_ones_own_class(planted: Path) -> None:
    text = yaml_of(compose_config([])).replace("diffx.sampler.Euler\n  nfe: 16", "planted.Sampler")
    (planted / "config.yaml").write_text(text)
    assert read_trusted_settings(planted / "config.yaml").sampler.target == "planted.Sampler"


@pytest.mark.parametrize("command", [sample.main, evaluate.main, probe.main])
def test_a_downloaded_folder_runs_nothing(
    command: Callable[[list[str]], None], planted: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (planted / "run").mkdir()
    text = yaml_of(compose_config([]))
    (planted / "run" / "config.yaml").write_text(text.replace("diffx.sampler.Euler\n  nfe: 16", "planted.Sampler"))
    with pytest.raises(SystemExit) as stopped:
        command(["run"])
    assert stopped.value.code == 2
    assert "sampler._target_=planted.Sampler" in capsys.readouterr().err
    assert not (planted / "mark").exists()
