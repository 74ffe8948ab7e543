"""What a search over settings gets back from a run, and a search that finds a mask ratio."""

import json
import math
import sys
from pathlib import Path

import pytest
import yaml

from diffx.commands.train import check_search, read_result
from diffx.config.compose import compose_config
from diffx.errors import DiffxError
from diffx.run.folder import RunDir
from tests import forks
from tests.run.conftest import SMALL, small


def write_result(tmp_path: Path, status: str = "complete", **settings: str):
    """Settings of a run whose curve ends at 2 and 7."""
    more = [f"{name}={value}" for name, value in settings.items()]
    chosen = compose_config(small(f"runs_dir={tmp_path}", *more))
    run = RunDir.of(chosen)
    run.path.mkdir(parents=True)
    lines = [{"step": step, "values": {"nearest_train": 1.0, "fd_a": 9.0 - step, "fd_b": 7.0}} for step in (1, 7)]
    run.curve.write_text("".join(json.dumps(line) + "\n" for line in lines))
    (run.path / "run.json").write_text(json.dumps({"status": status}))
    return chosen


def test_a_run_gives_back_its_last_value_of_the_first_distance(tmp_path: Path) -> None:
    assert read_result(write_result(tmp_path)) == 2.0


def test_another_metric_is_given_back_when_asked_for(tmp_path: Path) -> None:
    assert read_result(write_result(tmp_path, sweep_metric="fd_b")) == 7.0


def test_a_run_that_diverged_is_the_worst_there_is(tmp_path: Path) -> None:
    assert read_result(write_result(tmp_path, status="diverged")) == math.inf


def test_a_metric_that_was_not_measured_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DiffxError, match="sweep_metric=fid was not measured; type one of nearest_train, fd_a, fd_b"):
        read_result(write_result(tmp_path, sweep_metric="fid"))


@pytest.mark.parametrize("other", ["hydra/sweeper=optuna", "hydra/launcher=joblib"])
def test_the_rule_that_stops_seeds_is_refused_where_hydra_runs_the_jobs(other: str) -> None:
    with pytest.raises(DiffxError, match=f"with {other} no job is left out"):
        check_search(["-m", other, "sweep_stop=0.05"])
    check_search(["-m", other, "sweep_stop=null"])


@pytest.mark.slow
def test_optuna_finds_the_mask_ratio_with_the_least_distance(tmp_path: Path) -> None:
    pytest.importorskip("optuna", reason="install the extra `search` to run this test")
    search = ["hydra/sweeper=optuna", "hydra.sweeper.direction=minimize", "hydra.sweeper.n_trials=3",
              "hydra.sweeper.n_jobs=1", "hydra.sweeper.sampler.seed=0"]  # fmt: skip
    settings = ["plugins=[mdt]", "plugins.mdt.mask_ratio=interval(0.1,0.7)", "backbone.decoder_layers=1", *SMALL]
    command = [sys.executable, "-m", "diffx", "-m", *search, *settings]
    ended = forks.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    found = yaml.safe_load((tmp_path / "optimization_results.yaml").read_text())
    values = {}
    for curve in tmp_path.glob("runs/digits/*/s0/curve.jsonl"):
        last = json.loads(curve.read_text().splitlines()[-1])
        ratio = yaml.safe_load((curve.parent / "config.yaml").read_text())["plugins"]["mdt"]["mask_ratio"]
        values[ratio] = last["values"]["fd_embedded_sup_100"]
    assert len(values) == 3
    assert found["best_params"]["plugins.mdt.mask_ratio"] == min(values, key=values.__getitem__)
    assert found["best_value"] == min(values.values())
