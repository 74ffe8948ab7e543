"""The recipes of docs/recipes: their commands are accepted, their numbers agree, and torchrun trains such a run."""

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from diffx.config.compose import compose_config
from diffx.config.settings import Settings
from tests.run.conftest import SMALL

RECIPES = Path(__file__).parents[2] / "docs" / "recipes"


def settings_of(text: str) -> Settings:
    """What the recipe's `python -m diffx ... --cfg job --resolve` prints, composed."""
    (line,) = re.findall(r"python -m diffx (.*?) --cfg job --resolve", text.replace("\\\n", " "))
    return compose_config(shlex.split(line))


@pytest.mark.parametrize("name", ["torchrun.sh", "kubernetes.yaml", "skypilot.yaml"])
def test_a_recipe_composes_a_run_of_as_many_processes_as_it_starts(name: str) -> None:
    text = (RECIPES / name).read_text()
    settings = settings_of(text)
    assert (settings.trainer.num_nodes, settings.trainer.devices) == (4, 8)
    assert "-m diffx.worker" in " ".join(text.replace("- ", " ").split())
    for count, key in ((4, "nnodes"), (8, "nproc-per-node")):
        assert re.search(rf"--{key}=({count}|\$SKYPILOT_\w+)", text)


def test_the_manifest_of_kubernetes_starts_one_pod_a_node_and_agrees_with_itself() -> None:
    manifest = yaml.safe_load((RECIPES / "kubernetes.yaml").read_text())
    (job,) = manifest["spec"]["replicatedJobs"]
    pods = job["template"]["spec"]
    (container,) = pods["template"]["spec"]["containers"]
    assert pods["parallelism"] == pods["completions"] == 4
    assert container["resources"]["limits"]["nvidia.com/gpu"] == 8
    host = f"{manifest['metadata']['name']}-{job['name']}-0-0.{pods['template']['spec']['subdomain']}"
    assert f"--master-addr={host}" in container["args"]


def test_skypilots_task_asks_for_the_nodes_and_gpus_of_its_run() -> None:
    task = yaml.safe_load((RECIPES / "skypilot.yaml").read_text())
    assert task["num_nodes"] == 4
    assert task["resources"]["accelerators"].endswith(":8")


def test_torchrun_trains_the_printed_settings_on_two_processes(tmp_path: Path) -> None:
    more = ["max_steps=2", "trainer.devices=2", "trainer.threads=1"]
    shown = [sys.executable, "-m", "diffx", *SMALL, *more, "--cfg", "job", "--resolve"]
    printed = subprocess.run(shown, cwd=tmp_path, capture_output=True, text=True, check=True).stdout
    (tmp_path / "run.yaml").write_text(printed)
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    command = [*torchrun, "--max-restarts=1", "-m", "diffx.worker", "run.yaml"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    (record,) = tmp_path.glob("runs/digits/*/s0/run.json")
    assert '"count": 2' in record.read_text()
    assert '"status": "complete"' in record.read_text()
