"""A small trained run, and commands that refuse."""

from collections.abc import Callable
from pathlib import Path

import pytest

from diffx.config.compose import compose_config
from diffx.run.folder import RunDir
from diffx.train.loop import train
from tests.run.conftest import small

Refusal = Callable[[Callable[[list[str]], None], list[str]], str]


@pytest.fixture
def refusal(capsys: pytest.CaptureFixture[str]) -> Refusal:
    """What a command says that ends with exit code 2 and one sentence."""

    def refusal(main: Callable[[list[str]], None], arguments: list[str]) -> str:
        with pytest.raises(SystemExit) as stopped:
            main(arguments)
        message = capsys.readouterr().err
        assert stopped.value.code == 2
        assert message.count("\n") == 1
        return message

    return refusal


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory) -> RunDir:
    """Trained once; tests that write into it take a copy."""
    folder = tmp_path_factory.mktemp("runs")
    return train(compose_config(small(f"runs_dir={folder}", "more_ema_decays=[0.5]")))


@pytest.fixture
def run(trained: RunDir, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> RunDir:
    """A copy of the run, in an otherwise empty working directory."""
    import shutil

    monkeypatch.chdir(tmp_path)
    shutil.copytree(trained.path, tmp_path / "run")
    return RunDir(tmp_path / "run")
