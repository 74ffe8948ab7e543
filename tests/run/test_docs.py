"""What README and docs tell a user to type is accepted, and the example of a method is a method."""

import re
import shlex
import sys
from pathlib import Path

import pytest
import yaml

from diffx.assemble.model import build_model
from diffx.commands import train as cli
from diffx.config.compose import compose_config, split_sweep
from tests import forks
from tests.run.conftest import SMALL

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")), *sorted(ROOT.glob("plugins/*/*/README.md"))]


def typed() -> list[str]:
    """Every line that begins with `python -m diffx`, with or without .plan, in a shell block."""
    lines = []
    for page in PAGES:
        for block in re.findall(r"```(?:sh|bash|)\n(.*?)```", page.read_text(), re.DOTALL):
            joined = block.replace("\\\n", " ")
            lines += [line for line in joined.splitlines() if re.match(r"python -m diffx(\.plan)?( |$)", line)]
    return sorted(set(lines))


@pytest.mark.parametrize("line", typed())
def test_a_command_of_the_pages_composes_and_builds(line: str) -> None:
    module, *arguments = shlex.split(line, comments=True)[2:]
    if "..." in arguments or not all("=" in a or a in cli.MULTIRUN for a in arguments):
        pytest.skip("a pattern, not a command")
    if any(a.startswith("hydra/launcher") for a in arguments):
        pytest.importorskip("hydra_plugins.hydra_submitit_launcher", reason="needs the extra `slurm`")
    assert module in ("diffx", "diffx.plan")
    overrides = [a for a in arguments if a not in cli.MULTIRUN]
    if any(a.startswith("hydra/sweeper") for a in overrides):  # it chooses the values, of which one end will do
        overrides = [re.sub(r"interval\((.+?),.+\)", r"\1", a) for a in overrides if not a.startswith("hydra")]
    for job in split_sweep(overrides) if len(overrides) < len(arguments) else [overrides]:
        build_model(compose_config(job), "meta")


def readme_trains() -> list[str]:
    """The README's own training commands on embedded data."""
    lines = [line for line in typed() if line in (ROOT / "README.md").read_text()]
    return [line for line in lines if not line.startswith("python -m diffx.plan") and "experiment" not in line]


@pytest.mark.parametrize("line", readme_trains())
def test_a_training_command_of_the_readme_runs(line: str, tmp_path: Path) -> None:
    """As typed, with a small network and two steps added."""
    small = [*SMALL, "backbone.depth=6", "max_steps=2"]
    command = [sys.executable, *shlex.split(line, comments=True)[1:], *small]
    result = forks.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert result.returncode == 0, result.stdout + result.stderr
    assert list(tmp_path.glob("runs/digits/*/s0/curve.jsonl"))


def test_the_pages_have_commands() -> None:
    assert len(readme_trains()) >= 4
    assert len(typed()) > 10


def test_every_file_that_a_page_links_to_is_there() -> None:
    for page in PAGES:
        for link in re.findall(r"\]\(([^)#:]+)\)|src=\"([^\":]+)\"", page.read_text()):
            assert (page.parent / (link[0] or link[1])).exists(), f"{page.name}: {link}"


def plugins_page() -> list[str]:
    """The Python of docs/plugins.md: a method, a method that reads two depths, a test."""
    return re.findall(r"```python\n(.*?)```", (ROOT / "docs/plugins.md").read_text(), re.DOTALL)


def test_the_example_that_reads_two_depths_passes_the_contract(tmp_path: Path) -> None:
    _, example, test = plugins_page()
    (tmp_path / "agree.py").write_text(example)
    (tmp_path / "test_agree.py").write_text(test.replace("spread", "agree").replace("Spread", "Agree"))
    command = [sys.executable, "-m", "pytest", "-q", "-k", "not two_ranks", "test_agree.py"]
    contract = forks.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert contract.returncode == 0, contract.stdout


def test_the_example_of_a_method_is_found_planned_and_passes_the_contract(tmp_path: Path) -> None:
    example, _, test = plugins_page()
    (tmp_path / "conf/plugins").mkdir(parents=True)
    (tmp_path / "spread.py").write_text(example)
    (tmp_path / "test_spread.py").write_text(test)
    settings = re.findall(r"^# .*?(@package.*)$|^#  +(.*)$", example, re.MULTILINE)
    (tmp_path / "conf/plugins/spread.yaml").write_text("\n".join(f"# {a}" if a else b for a, b in settings) + "\n")
    plan = forks.run(
        [sys.executable, "-m", "diffx.plan", "plugins=[spread,tread]"], cwd=tmp_path, capture_output=True, text=True
    )
    assert plan.returncode == 0, plan.stderr
    assert "spread reads" in plan.stdout
    contract = forks.run(
        [sys.executable, "-m", "pytest", "-q", "test_spread.py"], cwd=tmp_path, capture_output=True, text=True
    )
    assert contract.returncode == 0, contract.stdout


def test_every_page_is_in_the_sites_navigation_and_every_entry_of_it_is_a_page() -> None:
    site = yaml.safe_load((ROOT / "mkdocs.yml").read_text())
    entries = [
        entry
        for part in site["nav"]
        for value in part.values()
        for entry in ([value] if isinstance(value, str) else value)
    ]
    assert sorted(entries) == sorted(file.name for file in (ROOT / "docs").glob("*.md"))


@pytest.mark.parametrize("name", ["mmdit_tiny", "pixart_tiny"])
def test_a_tiny_network_of_captions_has_as_many_parameters_as_is_said_of_it(name: str) -> None:
    model = build_model(compose_config(["data=captions", f"backbone={name}"]), "meta")
    said = f"{sum(weight.numel() for weight in model.backbone.parameters()) / 1e6:.1f}M parameters"
    assert said in (ROOT / f"conf/backbone/{name}.yaml").read_text().splitlines()[0]
    assert f"tiny MM-DiT ({said})" in (ROOT / "docs/text.md").read_text() or name != "mmdit_tiny"
