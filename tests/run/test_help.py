"""--help, --version and completion are diffx's own, and say what is true."""

import importlib.util
import shlex
import subprocess
from pathlib import Path

import pytest

from diffx.commands import train as cli
from diffx.commands.help.completion import install, write_script
from diffx.commands.help.page import ASIDE, COMMANDS, EXAMPLES, WIDTH, write_help
from diffx.commands.help.settings import default_keys, read_description, read_keys, words
from diffx.config.compose import compose_config, config_dir, split_sweep
from diffx.errors import DiffxError


def test_the_page_fits_eighty_columns_and_has_ten_examples() -> None:
    assert max(map(len, write_help([]).splitlines())) <= WIDTH
    assert len(EXAMPLES) == 10


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_of_the_page_is_one(command: str) -> None:
    module = command.removeprefix("python -m ")
    assert importlib.util.find_spec(module)


@pytest.mark.parametrize("example", EXAMPLES)
def test_every_example_of_the_page_composes(example: str) -> None:
    arguments = shlex.split(example.replace("python -m diffx.plan", "diffx"))[1:]
    for job in split_sweep([a for a in arguments if a != "-m"]):
        compose_config(job)


@pytest.mark.parametrize("place", ["config", *ASIDE])
def test_every_setting_that_the_page_lists_has_a_meaning(place: str) -> None:
    group, slash, _ = place.partition("/")
    keys = read_keys(config_dir() / f"{place}.yaml", group if slash else "")
    assert not [key.name for key in keys if not key.meaning]


def test_a_comment_that_goes_on_in_the_next_line_and_nested_settings_are_read(tmp_path: Path) -> None:
    file = tmp_path / "one.yaml"
    file.write_text(
        "# @package plugins.one\n# What it is,\n# in two lines.\n_target_: a.B\nweight:\n  align: 0.5   # first\n"
        "rate: [1, 2]           # begun\n                       # ended\n"
    )
    assert read_description(file) == "What it is, in two lines."
    found = [(key.name, key.value, key.meaning) for key in read_keys(file)]
    assert found == [("plugins.one.weight.align", "0.5", "first"), ("plugins.one.rate", "[1, 2]", "begun ended")]


def test_help_of_a_file_lists_its_settings_and_an_unknown_one_is_refused_with_the_nearest() -> None:
    said = write_help(["plugins=repa"])
    assert "plugins.repa.weight=0.5" in said
    assert "counted from 1" in said
    with pytest.raises(DiffxError, match=r"did you mean plugins=repa"):
        write_help(["plugins=repas"])


def test_the_command_line_answers_without_training(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for typed, said in (("--version", "diffx "), ("--help", "ten examples"), ("--help optimizer=muon", "momentum")):
        monkeypatch.setattr("sys.argv", ["diffx", *typed.split()])
        cli.main()
        assert said in capsys.readouterr().out


def completed(typed: str, folder: Path) -> list[str]:
    """What bash offers for a line."""
    script = folder / "diffx.bash"
    script.write_text(write_script("bash"))
    line = shlex.quote(typed)
    ask = f"source {script}; COMP_LINE={line}; COMP_POINT=${{#COMP_LINE}}; _diffx; printf '%s\\n' \"${{COMPREPLY[@]}}\""
    return subprocess.run(["bash", "-c", ask], capture_output=True, text=True, check=True).stdout.split()


def test_bash_completes_groups_methods_and_settings(tmp_path: Path) -> None:
    assert "plugins=[repa]" in completed("diffx plug", tmp_path)
    assert "0.25" not in completed("diffx data=di", tmp_path)
    assert completed("diffx data=di", tmp_path) == ["digits"]  # bash has the rest already
    assert "plugins.repa.weight=" in completed("diffx plugins.repa.w", tmp_path)
    assert "+experiment=repa_xl" in completed("diffx +exp", tmp_path)


def test_what_completion_offers_is_accepted() -> None:
    offered = set(words())
    assert {f"{key.name}=" for key in default_keys() if "." not in key.name} <= offered
    for word in offered:
        if word.startswith(("data=", "sampler=", "plugins=[t", "+experiment=tread")):
            compose_config([word])


@pytest.mark.parametrize(("shell", "place"), [("bash", "completions/diffx"), ("zsh", "_diffx"), ("fish", "diffx.fish")])
def test_completion_is_installed_by_one_command(
    shell: str, place: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in (("HOME", tmp_path), ("XDG_DATA_HOME", ""), ("XDG_CONFIG_HOME", ""), ("SHELL", f"/bin/{shell}")):
        monkeypatch.setenv(name, str(value))
    said = install()
    (file,) = [file for file in tmp_path.rglob("*diffx*") if file.is_file()]
    assert str(file).endswith(place)
    assert str(file) in said
    assert "plugins=[repa]" in file.read_text()


def test_a_shell_that_is_not_known_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SHELL", "/bin/tcsh")
    with pytest.raises(DiffxError, match="SHELL=tcsh is not known"):
        install()
