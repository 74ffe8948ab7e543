"""`diffx.new method NAME` writes a method that is green at once."""

import sys
from pathlib import Path

import pytest

from diffx.commands.new import FILES, main, write_method
from diffx.errors import DiffxError
from tests import forks


def test_a_new_method_passes_its_test_and_is_planned(tmp_path: Path) -> None:
    files = write_method("my_method", tmp_path)
    assert {str(file.relative_to(tmp_path)) for file in files} == {
        "my_method/__init__.py", "conf/plugins/my_method.yaml", "test_my_method.py", "my_method/README.md",
    }  # fmt: skip
    for module, arguments in (
        ("pytest", ["-q", "-p", "no:cacheprovider", "-k", "not two_ranks and not beside"]),
        ("diffx.plan", ["plugins=[my_method,tread]"]),
    ):
        done = forks.run([sys.executable, "-m", module, *arguments], cwd=tmp_path, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr
        assert "my_method reads" in done.stdout or "passed" in done.stdout


def test_what_is_written_says_the_name_everywhere_and_has_no_gap(tmp_path: Path) -> None:
    for file in write_method("my_method", tmp_path):
        assert "$" not in file.read_text()
        assert "my_method" in file.read_text() or "MyMethod" in file.read_text()


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("Bad-Name", "is no name"),
        ("class", "is no name"),
        ("none", "is no name"),
        ("repa", "has a method"),
        ("json", "module"),
        ("tokens", "import another Tokens"),
        ("plugin", "import another Plugin"),
    ],
)
def test_a_name_that_cannot_be_is_refused_with_nothing_written(name: str, why: str, tmp_path: Path) -> None:
    with pytest.raises(DiffxError, match=why):
        write_method(name, tmp_path)
    assert not list(tmp_path.iterdir())


def test_files_that_are_there_are_not_overwritten(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_method("my_method", tmp_path)
    with pytest.raises(SystemExit) as ended:
        main(["method", "my_method", "-o", str(tmp_path)])
    assert ended.value.code == 2
    assert "is there already" in capsys.readouterr().err
    assert len(FILES) == 4
