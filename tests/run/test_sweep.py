"""The command line as a user types it, in processes of its own."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
from PIL import Image

from tests import forks
from tests.run.conftest import SMALL, SMALL_PLUGINS, training


def diffx(folder: Path, *arguments: str, module: str = "diffx") -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", module, *arguments]
    return forks.run(command, cwd=folder, capture_output=True, text=True)


def test_a_sweep_trains_all_compares_them_and_skips_what_is_complete(tmp_path: Path) -> None:
    sweep = ["-m", "plugins=[],[tread]", "seed=0,1", *SMALL, "eval.first=2", "sweep_jobs=2"]
    # Settings of a plugin that is off in some of the jobs are added with +.
    first = diffx(tmp_path, *sweep, "backbone.depth=6")
    assert first.returncode == 0, first.stdout + first.stderr
    curves = sorted(tmp_path.glob("runs/digits/*/s*/curve.jsonl"))
    assert len(curves) == 4
    report = tmp_path / "runs/digits/compare"
    for name in ("compare.png", "compare.md", "compare.csv", "compare.html"):
        assert (report / name).stat().st_size > 0
    text = (report / "compare.md").read_text()
    assert "plain" in text
    assert "tread" in text
    assert first.stdout.strip().splitlines()[-1].startswith("Curves, tables and data:")
    before = [curve.read_text() for curve in curves]
    second = diffx(tmp_path, *sweep, "backbone.depth=6")
    assert second.stdout.count("complete already") == 4
    assert [curve.read_text() for curve in curves] == before


def test_a_sweep_goes_on_when_a_run_fails_and_says_so(tmp_path: Path) -> None:
    # The second learning rate makes the loss overflow; the check comes every 4 steps.
    settings = [*SMALL, "trainer.gradient_clip_val=null", "max_steps=20", "eval.first=2"]
    result = diffx(tmp_path, "-m", "optimizer.lr=1e-3,1e30", *settings)
    assert result.returncode == 2
    assert "1 of 2 runs failed" in result.stderr
    assert (tmp_path / "runs/digits/compare/compare.md").exists()


def test_a_sweep_over_a_weight_makes_a_run_for_each(tmp_path: Path) -> None:
    settings = [*SMALL, *SMALL_PLUGINS["repa"], "max_steps=2"]
    result = diffx(tmp_path, "-m", "plugins=[repa]", "plugins.repa.weight=0.25,0.5", *settings)
    assert result.returncode == 0, result.stderr
    assert len(list(tmp_path.glob("runs/digits/*/s0/run.json"))) == 2


def test_two_processes_train_one_run(tmp_path: Path) -> None:
    settings = [*SMALL, *SMALL_PLUGINS["repa"], "trainer.devices=2", "trainer.threads=1", "eval.first=4"]
    result = diffx(tmp_path, "plugins=[repa]", *settings)
    assert result.returncode == 0, result.stdout + result.stderr
    (run,) = tmp_path.glob("runs/digits/*/s0")
    points = [json.loads(line) for line in (run / "curve.jsonl").read_text().splitlines()]
    assert [p["step"] for p in points] == [4, 6, 8]
    assert all("fd_embedded_sup_100" in p["values"] for p in points)
    assert json.loads((run / "run.json").read_text())["device"]["count"] == 2


def test_samples_of_a_run_are_drawn_as_a_picture_and_as_numbers(tmp_path: Path) -> None:
    assert diffx(tmp_path, *SMALL, "max_steps=2").returncode == 0
    (run,) = tmp_path.glob("runs/digits/*/s0")
    result = diffx(tmp_path, str(run), "-n", "20", "--nfe", "2", "-o", "grid.png", module="diffx.sample")
    assert result.returncode == 0, result.stderr
    assert Image.open(tmp_path / "grid.png").width >= 160
    images = np.load(tmp_path / "grid.npz", allow_pickle=False)["arr_0"]
    assert images.shape == (20, 16, 16, 1)
    assert images.dtype == np.uint8


def test_sampling_a_folder_that_is_no_run_is_refused(tmp_path: Path) -> None:
    result = diffx(tmp_path, "nowhere", module="diffx.sample")
    assert result.returncode == 2
    assert "is no run directory" in result.stderr


def test_the_plan_says_what_happens_where_and_what_it_costs(tmp_path: Path) -> None:
    result = diffx(tmp_path, "+experiment=repa_xl", "plugins=[repa,tread]", module="diffx.plan")
    assert result.returncode == 0, result.stderr
    lines = result.stdout.splitlines()
    rows = [" ".join(line.split()) for line in lines]
    assert rows[0] == "view main depth tokens what"
    assert rows[1].startswith("2 256 tread keeps its state here, drops 128")
    assert rows[2].startswith("8 128 repa reads")
    assert rows[3].startswith("25 128 tread restores 256")
    assert rows[4] == "backbone 675.1M · plugins 8.1M, training only"
    assert max(map(len, lines)) <= 80
    assert "forward 0.59x" in result.stdout
    assert "0.42 TFLOP per image" in result.stdout
    assert not list(tmp_path.iterdir())


def test_ctrl_c_stops_a_sweep_and_starts_no_other_run(tmp_path: Path) -> None:
    with training(tmp_path, "-m", "sweep_jobs=1", "seed=0,1,2") as process:
        os.killpg(process.pid, signal.SIGINT)  # as a terminal does: to all processes of the group
        _, message = process.communicate(timeout=600)
    assert process.returncode == 3
    assert "type the same command again to go on" in message
    assert len(list(tmp_path.glob("runs/digits/*/s*"))) == 1
    assert list(tmp_path.glob("runs/digits/*/s0/checkpoints/last.ckpt"))
