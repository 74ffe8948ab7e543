"""What `--wandb` publishes: the offline W&B run, read back with W&B's own reader, and the report over the runs."""

import io
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from made_runs import write_run
from rich.console import Console

from diffx.compare import compare
from diffx.compare.__main__ import main
from diffx.compare.shown.publish import Destination, build_report, plot_distances
from diffx.compare.study import make_study
from diffx.errors import DiffxError


@pytest.fixture(autouse=True)
def no_key(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Whoever runs the tests is not logged in."""
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    monkeypatch.setenv("NETRC", str(tmp_path / "none"))
    monkeypatch.setenv("HOME", str(tmp_path))


@pytest.fixture
def said(root: Path, tmp_path: Path) -> str:
    """What a comparison of two methods says after publishing into tmp_path/report."""
    for seed in (0, 1):
        write_run(root, "plain", seed, config={"logger": {"project": "efficiency"}})
        write_run(root, "repa", seed)
    text = io.StringIO()
    compare([root], tmp_path / "report", destination=Destination(), console=Console(file=text, width=100))
    return text.getvalue()


def records(folder: Path) -> list[dict[str, Any]]:
    (file,) = folder.glob("wandb/offline-run-*")
    command = [Path(sys.executable).with_name("wandb"), "leet", "inspect", "--json", file]
    shown = subprocess.run(command, capture_output=True, text=True, check=True)
    return [json.loads(line) for line in shown.stdout.splitlines() if line.startswith("{")]


@pytest.mark.slow
def test_the_offline_run_holds_the_figure_the_page_the_tables_and_the_card(said: str, tmp_path: Path):
    text = json.dumps(records(tmp_path / "report"))
    for wanted in ("compare_steps", "tables/Size and speed", "Time to target", "efficiency", "compare demo", "page"):
        assert wanted in text
    media = {path.suffix for path in (tmp_path / "report").glob("wandb/offline-run-*/files/media/**/*.*")}
    assert {".png", ".html", ".json"} <= media


@pytest.mark.slow
def test_offline_the_report_is_left_as_a_file_and_the_commands_that_publish_it_are_said(said: str, tmp_path: Path):
    report = json.loads((tmp_path / "report" / "wandb_report.json").read_text())
    assert report["title"] == "Comparison: demo"
    assert report["project"] == "efficiency"
    assert "At equal cost" in report["blocks"][0]["text"] or "few seeds" in report["blocks"][0]["text"]
    assert f"wandb sync {tmp_path / 'report'}/wandb/offline-run-" in said
    assert "python -m diffx.compare RUN_OR_STUDY... --wandb" in said


def test_the_report_plots_every_distance_against_the_cost_that_runs_log_with_it(root: Path):
    write_run(root, "plain")
    write_run(root, "repa")
    plots = [(plot.x, plot.y, plot.log_x, plot.log_y) for plot in plot_distances(make_study([root]))]
    assert ("cpu_hours", ["eval/fd_embedded_sup_1k"], True, True) in plots
    assert ("trainer/global_step", ["eval/fd_embedded_ssl_1k"], True, True) in plots


def test_the_report_is_built_without_a_server_and_pools_the_seeds_of_a_method(root: Path):
    write_run(root, "plain", config={"logger": {"project": "efficiency"}})
    report = build_report(make_study([root]), [], "A verdict.", Destination("p", "e"))
    assert report.blocks[0].text == "A verdict."
    (runs,) = report.blocks[1].runsets
    assert (report.project, runs.project) == ("p", "efficiency")
    assert runs.groupby == ["config.record.label"]
    assert runs.filters == "Config('study') in ['demo']"


def test_without_the_extra_it_is_named_and_nothing_is_written(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    write_run(root, "plain")
    monkeypatch.setitem(sys.modules, "wandb_workspaces", None)
    monkeypatch.setitem(sys.modules, "wandb_workspaces.reports.v2", None)
    with pytest.raises(DiffxError, match=r"pip install 'diffx-train\[report\]'"):
        compare([root], tmp_path / "report", destination=Destination())
    assert not (tmp_path / "report").exists()


def test_a_project_without_wandb_is_refused(root: Path, capsys: pytest.CaptureFixture[str]):
    write_run(root, "plain")
    assert main([str(root), "--project", "p"]) == 2
    assert "add --wandb" in capsys.readouterr().err
