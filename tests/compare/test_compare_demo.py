"""The repository's own study is drawn again from what is committed."""

import io
import json
import shutil
from pathlib import Path

import pytest
from made_runs import write_run
from rich.console import Console

from diffx.compare import compare
from diffx.curves.read import read
from diffx.errors import DiffxError

DEMO = Path(__file__).parents[2] / "experiments" / "demo"


def test_pairs_of_record_and_curve_are_read_as_runs(root: Path):
    folder = write_run(root, "plain", 3)
    root.joinpath("curves").mkdir()
    shutil.copy(folder / "run.json", root / "curves" / "plain_s3.json")
    shutil.copy(folder / "curve.jsonl", root / "curves" / "plain_s3.jsonl")
    shutil.rmtree(root / "demo")
    (run,) = read([root])[0]
    assert (run.label, run.seed, len(run.points), run.config) == ("plain", 3, 4, {})


def test_settings_kept_beside_a_pair_are_read(root: Path):
    folder = write_run(root, "plain", config={"batch_size": 7})
    for kind, name in (("json", "run.json"), ("jsonl", "curve.jsonl"), ("yaml", "config.yaml")):
        shutil.copy(folder / name, root / f"one.{kind}")
    shutil.rmtree(root / "demo")
    (run,) = read([root])[0]
    assert run.config["batch_size"] == 7


def test_a_lone_file_of_lines_is_no_run(root: Path):
    root.mkdir()
    (root / "log.jsonl").write_text("{}\n")
    with pytest.raises(DiffxError, match=r"no run\.json, and no pair NAME\.json and NAME\.jsonl, below"):
        compare([root])


def test_the_committed_study_is_drawn_again_with_the_values_of_its_readme(tmp_path: Path):
    out = compare([DEMO], tmp_path / "out", console=Console(file=io.StringIO()))
    text = (out / "compare.md").read_text()
    assert "| tread | 3 | 0.816 [0.784 – 0.875] |" in text
    assert "| plain | 3 | 1.79 [1.58 – 2.15] |" in text
    assert "Settings were not kept beside the runs" in text
    assert (out / "compare.png").stat().st_size > 50_000


def test_every_pair_of_the_study_is_complete():
    names = {file.stem for file in (DEMO / "curves").glob("*.json")}
    assert len(names) == 15
    assert names == {file.stem for file in (DEMO / "curves").glob("*.jsonl")}
    assert {json.loads((DEMO / "curves" / f"{name}.json").read_text())["status"] for name in names} == {"complete"}
