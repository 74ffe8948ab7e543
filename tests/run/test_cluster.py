"""Several processes end together, pass signals on, and find each other inside a Slurm job."""

import json
import os
import signal
import stat
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from diffx.commands.sweep.processes import gpu_groups
from diffx.config.compose import compose_config
from diffx.config.parse import write_settings
from diffx.processes import children as processes
from diffx.processes.children import run_ranks
from tests import forks
from tests.run.conftest import SMALL, SMALL_PLUGINS, training


def script(folder: Path, name: str, text: str) -> None:
    """A command of Slurm, as far as diffx uses it."""
    folder.mkdir(exist_ok=True)
    file = folder / name
    file.write_text(f"#!{sys.executable}\n{text}")
    file.chmod(file.stat().st_mode | stat.S_IEXEC)


def inside_slurm(folder: Path, nodes: int) -> dict[str, str]:
    """The environment of a job's script on `nodes` nodes, all of which are this machine."""
    hosts = "\\n".join(["127.0.0.1"] * nodes)
    script(
        folder / "bin",
        "scontrol",
        "import sys\n"
        f"if sys.argv[1:3] == ['show', 'hostnames']: print('{hosts}')\n"
        f"else: open({str(folder / 'requeued')!r}, 'a').write(' '.join(sys.argv[1:]))\n",
    )
    script(
        folder / "bin",
        "srun",
        "import os, signal, subprocess, sys\n"
        "command = [a for a in sys.argv[1:] if not a.startswith('--')]\n"
        f"tasks = [subprocess.Popen(command, env=os.environ | {{'SLURM_NODEID': str(n), 'SLURM_PROCID': str(n),"
        f" 'SLURM_STEP_NUM_TASKS': '{nodes}', 'SLURM_SRUN_COMM_HOST': 'x'}}) for n in range({nodes})]\n"
        "for number in (signal.SIGTERM, signal.SIGUSR1):\n"
        "    signal.signal(number, lambda s, f: [t.send_signal(s) for t in tasks])\n"
        "sys.exit(max(t.wait() for t in tasks))\n",
    )
    path = f"{folder / 'bin'}{os.pathsep}{os.environ['PATH']}"
    job = {"SLURM_JOB_ID": str(os.getpid()), "SLURM_JOB_NUM_NODES": str(nodes), "SLURM_JOB_NODELIST": "here"}
    return os.environ | job | {"PATH": path}


def end_of(process: subprocess.Popen[str]) -> tuple[int, str]:
    _, message = process.communicate(timeout=600)
    return process.returncode, message


def saved_step(folder: Path) -> int:
    (path,) = folder.glob("runs/digits/*/s0/checkpoints/last.ckpt")
    return int(torch.load(path, weights_only=True)["global_step"])


@pytest.mark.parametrize("devices", [1, 2])
def test_sigterm_saves_at_the_next_step_on_all_ranks(tmp_path: Path, devices: int) -> None:
    with training(tmp_path, f"trainer.devices={devices}") as process:
        process.send_signal(signal.SIGTERM)
        process.send_signal(signal.SIGTERM)  # clusters send it more than once
        code, message = end_of(process)
    assert code == 3, message
    assert message.count("type the same command again to go on") == 1
    assert saved_step(tmp_path) >= 4


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_to_every_process_of_a_run_leaves_it_its_data_until_it_has_saved(tmp_path: Path, number: int) -> None:
    """As `scancel` and a terminal send it: to the processes that read batches too."""
    with training(tmp_path, "data.workers=2") as process:
        for pid in (*children(process.pid), process.pid):
            os.kill(pid, number)
        code, message = end_of(process)
    assert code == 3, message
    assert saved_step(tmp_path) >= 4


def test_sigusr1_saves_and_puts_the_slurm_job_back_into_the_queue(tmp_path: Path) -> None:
    environment = inside_slurm(tmp_path, nodes=1)
    with training(tmp_path, "trainer.devices=2", environment=environment) as process:
        process.send_signal(signal.SIGUSR1)
        code, message = end_of(process)
    assert code == 75, message
    assert (tmp_path / "requeued").read_text() == f"requeue {environment['SLURM_JOB_ID']}"
    assert saved_step(tmp_path) >= 4


def test_sigterm_leaves_the_queue_alone(tmp_path: Path) -> None:
    with training(tmp_path, environment=inside_slurm(tmp_path, nodes=1)) as process:
        process.send_signal(signal.SIGTERM)
        code, _ = end_of(process)
    assert code == 3
    assert not (tmp_path / "requeued").exists()


def test_a_sweep_passes_sigterm_on_to_its_runs(tmp_path: Path) -> None:
    with training(tmp_path, "-m", "seed=0,1,2", "sweep_jobs=1") as process:
        process.send_signal(signal.SIGTERM)
        code, message = end_of(process)
    assert code == 3, message
    assert saved_step(tmp_path) >= 4
    assert len(list(tmp_path.glob("runs/digits/*/s*"))) == 1


def test_one_rank_that_dies_ends_the_others(tmp_path: Path) -> None:
    with training(tmp_path, "trainer.devices=2", popen=subprocess.Popen) as process:
        both = {pid: environ(pid) for pid in children(process.pid) if b"WORLD_SIZE=2" in environ(pid)}
        victim = next(pid for pid, variables in both.items() if b"LOCAL_RANK=1" in variables)
        os.kill(victim, signal.SIGKILL)
        code, message = end_of(process)
    assert code == 2
    assert "failed (exit code -9)" in message
    assert len(both) == 2
    assert not any(Path(f"/proc/{pid}").exists() for pid in both)


def test_a_run_on_two_nodes_starts_a_worker_on_each_with_srun(tmp_path: Path) -> None:
    settings = [*SMALL, *SMALL_PLUGINS["repa"], "plugins=[repa]", "trainer.threads=1", "trainer.devices=1"]
    command = [sys.executable, "-m", "diffx", *settings, "trainer.num_nodes=2"]
    result = forks.run(command, cwd=tmp_path, env=inside_slurm(tmp_path, nodes=2), capture_output=True, text=True)
    assert result.returncode == 0, result.stdout + result.stderr
    (card,) = tmp_path.glob("runs/digits/*/s0/run.json")
    assert json.loads(card.read_text())["device"]["count"] == 2
    assert json.loads(card.read_text())["status"] == "complete"
    assert not list(tmp_path.glob("runs/.launch-*"))


def test_several_nodes_without_slurm_are_refused_with_the_two_ways(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "diffx", *SMALL, "trainer.num_nodes=2"]
    result = forks.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert result.returncode == 2
    assert "inside a Slurm job of 2 nodes" in result.stderr
    assert "torchrun --nnodes=2" in result.stderr


def test_several_tasks_on_a_node_are_refused(tmp_path: Path) -> None:
    environment = inside_slurm(tmp_path, nodes=1) | {"SLURM_SRUN_COMM_HOST": "x", "SLURM_STEP_NUM_TASKS": "8"}
    command = [sys.executable, "-m", "diffx", *SMALL, "trainer.devices=8"]
    result = forks.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert result.returncode == 2
    assert "type --ntasks-per-node=1" in result.stderr


def test_a_sweep_over_a_weight_on_two_processes_trains_both_ranks_with_the_same(tmp_path: Path) -> None:
    """Ranks compare what they were given before the first step, so a complete run is one that agreed."""
    settings = [*SMALL, *SMALL_PLUGINS["repa"], "plugins=[repa]", "trainer.devices=2", "max_steps=2"]
    command = [sys.executable, "-m", "diffx", "-m", "plugins.repa.weight=0.25,0.5", *settings]
    result = forks.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert result.returncode == 0, result.stdout + result.stderr
    cards = [json.loads(file.read_text()) for file in tmp_path.glob("runs/digits/*/s0/run.json")]
    assert [card["device"]["count"] for card in cards] == [2, 2]
    assert {card["status"] for card in cards} == {"complete"}


def test_a_step_of_one_node_in_a_larger_job_is_one_node(tmp_path: Path) -> None:
    step = {"SLURM_SRUN_COMM_HOST": "x", "SLURM_STEP_NUM_TASKS": "1", "SLURM_STEP_NUM_NODES": "1", "SLURM_NODEID": "0"}
    command = [sys.executable, "-m", "diffx", *SMALL, "max_steps=2", "trainer.devices=2"]
    environment = inside_slurm(tmp_path, nodes=4) | step
    result = forks.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr


def test_a_rank_that_sigusr1_kills_before_it_listens_asks_for_another_turn() -> None:
    starting = [sys.executable, "-c", "import os, time; os.kill(os.getppid(), 10); time.sleep(30)"]
    assert run_ranks(starting, devices=2).code == 75


def test_a_rank_that_does_not_listen_is_killed_after_a_while(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(processes, "GRACE", 0.5)
    monkeypatch.chdir(tmp_path)
    deaf = (
        "import os, signal, sys, time; signal.signal(signal.SIGTERM, signal.SIG_IGN);"
        " time.sleep(0.5); sys.exit(9) if os.environ['RANK'] == '0' else time.sleep(60); open('survived', 'w')"
    )
    assert run_ranks([sys.executable, "-c", deaf], devices=2).code == 9
    assert not list(tmp_path.iterdir())


def test_ranks_with_different_configurations_end_before_the_first_step(tmp_path: Path) -> None:
    for rank in (0, 1):
        config = compose_config(
            [*SMALL, "trainer.devices=2", f"runs_dir={tmp_path}/runs", f"batch_size={16 * (1 + rank)}"]
        )
        write_settings(config, tmp_path / f"{rank}.yaml")
    own = "import os, runpy, sys; sys.argv[1:] = [os.environ['RANK'] + '.yaml']"
    command = [sys.executable, "-c", f"{own}; runpy.run_module('diffx.worker', run_name='__main__')"]
    ranks = [
        forks.Popen(command, cwd=tmp_path, env=environment, stderr=subprocess.PIPE, text=True)
        for environment in two_ranks()
    ]
    messages = [process.communicate(timeout=600)[1] for process in ranks]
    assert all("disagree about it" in message for message in messages)
    assert not list(tmp_path.glob("runs/**/last.ckpt"))


def two_ranks() -> list[dict[str, str]]:
    """The environments of two processes that are to find each other."""
    port = processes._free_port()
    both = []
    for rank in (0, 1):
        numbers = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": 2, "LOCAL_WORLD_SIZE": 2, "MASTER_PORT": port}
        both.append(os.environ | {"MASTER_ADDR": "127.0.0.1"} | {key: str(value) for key, value in numbers.items()})
    return both


def test_a_run_of_two_processes_that_lacks_its_last_evaluation_gets_that_of_all_samples(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "diffx", *SMALL, "max_steps=2", "trainer.devices=2"]
    assert forks.run(command, cwd=tmp_path).returncode == 0
    (run,) = tmp_path.glob("runs/digits/*/s0")
    wanted = json.loads((run / "curve.jsonl").read_text())
    (run / "curve.jsonl").unlink()
    (run / "run.json").write_text(json.dumps(json.loads((run / "run.json").read_text()) | {"finished_with": None}))
    assert forks.run(command, cwd=tmp_path).returncode == 0
    assert json.loads((run / "curve.jsonl").read_text())["values"] == wanted["values"]


def test_a_signal_that_takes_wandbs_process_along_leaves_the_save(tmp_path: Path) -> None:
    with training(tmp_path, "logger=wandb", "logger.mode=offline", "trainer.devices=2") as process:
        for pid in everyone_below(process.pid):
            os.kill(pid, signal.SIGTERM)
        code, message = end_of(process)
    assert code == 3, message
    assert saved_step(tmp_path) >= 4


def test_the_gpus_of_a_node_are_dealt_out_to_runs_in_groups(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1,2,3,4,5,6,7")
    assert gpu_groups(2) == ["0,1", "2,3", "4,5", "6,7"]
    assert gpu_groups(3) == ["0,1,2", "3,4,5"]
    assert gpu_groups(16) == []


def children(pid: int) -> list[int]:
    """Processes that `pid` has started and that are alive."""
    file = Path(f"/proc/{pid}/task/{pid}/children")
    return [int(child) for child in file.read_text().split()] if file.exists() else []


def everyone_below(pid: int) -> list[int]:
    """A process and all that it and they have started, the youngest first."""
    return [below for child in children(pid) for below in everyone_below(child)] + [pid]


def environ(pid: int) -> bytes:
    return Path(f"/proc/{pid}/environ").read_bytes()
