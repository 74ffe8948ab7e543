"""What docs/compare.md tells a user to type runs as typed, on small made runs."""

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from made_runs import line, write_run

from diffx.compare.shown.forecast import HELD, HELD_UNTESTED
from diffx.compare.shown.table import COVERAGE

PAGE = (Path(__file__).parents[2] / "docs" / "compare.md").read_text()


def typed() -> list[str]:
    """The commands of the page's shell blocks, patterns left out."""
    blocks = re.findall(r"```\n(.*?)```", PAGE, re.DOTALL)
    lines = [line for block in blocks for line in block.splitlines() if line.startswith("python -m diffx.compare")]
    return [line for line in lines if "..." not in line]


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """A working directory with the study runs/demo, evaluated under adm_50k too."""
    for label in ("plain", "repa"):
        folder = write_run(tmp_path / "runs", label)
        (folder / "curve_adm_50k.jsonl").write_text(line(400, 8.0, {"fid_50k": 9.0}, protocol="ad50"))
    return tmp_path


def run(arguments: list[str], place: Path) -> str:
    kept = {name: os.environ[name] for name in ("PYTHONPATH",) if name in os.environ}
    home = {"HOME": str(place), "PATH": "/usr/bin:/bin", **kept}
    done = subprocess.run([sys.executable, *arguments], cwd=place, env=home, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.slow
@pytest.mark.parametrize("command", typed())
def test_a_command_of_the_page_runs(command: str, place: Path):
    arguments = shlex.split(command, comments=True)[1:]
    out = place / ("report" if "-o" in arguments else "runs/demo/compare")
    assert "Against plain" in run(arguments, place) or "--protocol" in arguments
    for name in ("compare.html", "compare.png", "compare.svg", "compare.md", "compare.csv"):
        assert (out / name).is_file()


@pytest.mark.slow
def test_the_example_in_python_runs(place: Path):
    (example,) = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    run(["-c", example], place)
    assert (place / "report" / "compare.html").is_file()


def test_every_option_stands_in_the_page(place: Path):
    options = set(re.findall(r"--[a-z]+", run(["-m", "diffx.compare", "--help"], place)))
    assert options - {"--help", "--out"} <= set(re.findall(r"--[a-z]+", PAGE))
    assert len(typed()) == 4


def test_the_coverage_that_tables_print_is_the_measured_one_of_the_page():
    for seeds, share in COVERAGE.items():
        assert re.search(rf"with {'three' if seeds == 3 else 'five'}[^;]*? {100 * share:.1f} % of", PAGE, re.IGNORECASE)


def test_what_a_forecast_says_of_its_intervals_is_what_the_back_test_of_the_page_measured():
    rows = dict(re.findall(r"^\| ([^|]+?) \|(?:[^|]*\|){4} (\d+/\d+) \|", PAGE, re.MULTILINE))
    held = {name: tuple(map(int, found.split("/"))) for name, found in rows.items()}
    demo = [held[name] for name in held if name.startswith("demo: ")]
    assert held["all"] == HELD == tuple(map(sum, zip(*(held[name] for name in held if name != "all"), strict=True)))
    assert tuple(map(sum, zip(*demo, strict=True))) == HELD_UNTESTED
    assert f"in {HELD[0]} of {HELD[1]} cases, {100 * HELD[0] / HELD[1]:.0f} %" in PAGE
