"""What the offline W&B run holds: every eval metric with the cost as its axis, in one row with it."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from diffx.run import RunDir


@pytest.fixture
def records(run: Callable[..., RunDir]) -> list[dict[str, Any]]:
    """Train a small run with the default logger and read its offline file back with W&B's own reader."""
    directory = run("logger=wandb", "eval.first=4", plugins=("tread",))
    (file,) = directory.path.glob("wandb/offline-run-*/run-*.wandb")
    wandb = Path(sys.executable).with_name("wandb")
    command = [wandb, "leet", "inspect", "--json", file.parent]
    shown = subprocess.run(command, capture_output=True, text=True, check=True)
    return [json.loads(line) for line in shown.stdout.splitlines() if line.startswith("{")]


def test_every_metric_has_the_cost_as_its_axis_and_its_points(records: list[dict[str, Any]]) -> None:
    text = json.dumps(records)
    metrics = [m for m in find(records, "step_metric") if str(m.get("name", "")).startswith("eval/")]
    names = {m["name"] for m in metrics}
    assert {"eval/fd_embedded_sup_100", "eval/fd_embedded_ssl_100", "eval/nearest_train"} <= names
    assert {m["step_metric"] for m in metrics} == {"cpu_hours"}
    assert "tread" in text


def find(node: Any, key: str) -> list[dict[str, Any]]:
    """Every dict below `node` that has `key`."""
    if isinstance(node, list):
        return [hit for item in node for hit in find(item, key)]
    if not isinstance(node, dict):
        return []
    return ([node] if key in node else []) + [hit for value in node.values() for hit in find(value, key)]
