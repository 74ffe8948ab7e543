"""What the offline W&B run holds: every eval metric with the cost as its axis, in one row with it."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from diffx.config.compose import compose_config
from diffx.errors import DiffxError
from diffx.run.sink import Sink, online
from diffx.train.loop import train
from tests.run.conftest import small


@pytest.fixture(scope="module")
def records(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """Train a small run with the default logger and read its offline file back with W&B's own reader."""
    place = f"runs_dir={tmp_path_factory.mktemp('runs')}"
    directory = train(compose_config(small(place, "logger=wandb", "eval.first=4", plugins=("tread",))))
    (file,) = directory.path.glob("wandb/offline-run-*/run-*.wandb")
    wandb = Path(sys.executable).with_name("wandb")
    command = [wandb, "leet", "inspect", "--json", file.parent]
    shown = subprocess.run(command, capture_output=True, text=True, check=True)
    return [json.loads(line) for line in shown.stdout.splitlines() if line.startswith("{")]


def test_every_metric_has_the_cost_as_its_axis_and_its_points(records: list[dict[str, Any]]) -> None:
    metrics = [m for m in find(records, "step_metric") if str(m.get("name", "")).startswith("eval/")]
    names = {m["name"] for m in metrics}
    assert {"eval/fd_embedded_sup_100", "eval/fd_embedded_ssl_100", "eval/nearest_train"} <= names
    assert {m["step_metric"] for m in metrics} == {"cpu_hours"}
    logged = [record["history"]["item"] for record in records if record["type"] == "history"]
    rows = [row for row in logged if "eval/fd_embedded_sup_100" in row]
    assert [row["trainer/global_step"] for row in rows] == [4, 6, 8]
    assert 0 < rows[0]["cpu_hours"] < rows[1]["cpu_hours"]


def test_the_run_is_found_by_study_plugins_plan_and_record(records: list[dict[str, Any]]) -> None:
    (run,) = (record["run"] for record in records if record["type"] == "run")
    assert run["run_group"] == "digits"
    assert run["tags"] == ["tread"]
    assert run["run_id"].startswith("digits-")
    config = run["config"]["update"]
    assert config["record"]["label"] == "tread"
    assert config["record"]["protocol_hash"]
    assert "tread" in config["plan"]


def test_a_key_or_a_login_means_online_unless_the_user_objects(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in ("WANDB_API_KEY", "WANDB_MODE", "NETRC"):
        monkeypatch.delenv(name, raising=False)
    assert not online("auto")
    (tmp_path / ".netrc").write_text("machine api.wandb.ai\n  login user\n  password secret\n")
    (tmp_path / ".netrc").chmod(0o600)
    assert online("auto")
    monkeypatch.setenv("WANDB_MODE", "offline")
    assert not online("auto")
    assert online("online")


def find(node: Any, key: str) -> list[dict[str, Any]]:
    """Every dict below `node` that has `key`."""
    if isinstance(node, list):
        return [hit for item in node for hit in find(item, key)]
    if not isinstance(node, dict):
        return []
    return ([node] if key in node else []) + [hit for value in node.values() for hit in find(value, key)]


def test_a_logger_that_fails_is_dropped_with_a_line_and_ends_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    class Broken:
        calls = 0

        def log_metrics(self, values: dict[str, float], step: int) -> None:
            Broken.calls += 1
            raise ConnectionResetError("gone")

    sink = Sink(Broken())  # type: ignore[arg-type]
    sink.metrics({"a": 1.0}, 1)
    sink.metrics({"a": 1.0}, 2)
    sink.finish()
    assert Broken.calls == 1
    assert capsys.readouterr().out.count("Broken failed (ConnectionResetError: gone)") == 1


def test_a_csv_holds_the_rows_of_training_and_evaluation(tmp_path: Path) -> None:
    run = train(compose_config(small(f"runs_dir={tmp_path}", "logger=csv", "eval.first=4")))
    header, *rows = (run.path / "csv/from_step_0/metrics.csv").read_text().splitlines()
    names = header.split(",")
    assert {"train/denoise", "eval/fd_embedded_sup_100", "cpu_hours", "step"} <= set(names)
    steps = [dict(zip(names, row.split(","), strict=True)) for row in rows]
    assert {row["step"] for row in steps if row["eval/fd_embedded_sup_100"]} == {"4", "6", "8"}


def test_any_lightning_logger_is_taken_by_its_class(tmp_path: Path) -> None:
    mine = ["logger.lightning._target_=lightning.pytorch.loggers.CSVLogger", f"logger.lightning.save_dir={tmp_path}"]
    settings = compose_config(small(f"runs_dir={tmp_path}", "logger=lightning", *mine, "max_steps=1"))
    assert settings.id == compose_config(small()).id
    train(settings)
    assert list(tmp_path.glob("lightning_logs/version_0/metrics.csv"))


def test_a_logger_whose_package_is_missing_or_class_is_not_named_is_refused_before_anything_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def missing(*_: object, **__: object) -> None:
        raise ModuleNotFoundError("Neither `tensorboard` nor `tensorboardX` is available.")

    monkeypatch.setattr("lightning.pytorch.loggers.TensorBoardLogger.__init__", missing)
    with pytest.raises(DiffxError, match=r"logger=tensorboard needs a package .*tensorboard"):
        train(compose_config(small(f"runs_dir={tmp_path / 'runs'}", "logger=tensorboard")))
    assert not (tmp_path / "runs").exists()
    with pytest.raises(DiffxError, match="_target_"):
        compose_config(small("logger=lightning", "logger.lightning._target_=null"))


def test_the_demo_goes_online_only_when_that_is_typed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_API_KEY", "0" * 40)
    monkeypatch.delenv("WANDB_MODE", raising=False)
    for name in ("demo", "field", "pairs"):
        assert not online(compose_config([f"+experiment={name}"]).logger.mode)
    assert online(compose_config(["+experiment=demo", "logger.mode=online"]).logger.mode)
    assert online(compose_config([]).logger.mode)
