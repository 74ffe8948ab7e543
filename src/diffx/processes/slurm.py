"""Inside a Slurm job, or a step of one: which node this is, and asking for another turn."""

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager

from diffx.errors import DiffxError, Stopped
from diffx.processes.children import Node


def in_job() -> bool:
    """Whether this process is inside a Slurm job."""
    return "SLURM_JOB_ID" in os.environ


def is_task() -> bool:
    """Whether srun started this process (or a submitit job did), rather than the job's script."""
    return "SLURM_SRUN_COMM_HOST" in os.environ


def this_node() -> Node:
    """This machine among those of the job. The port follows from the job's number, so that all agree on it."""
    job, tasks = int(os.environ["SLURM_JOB_ID"]), int(os.environ.get("SLURM_STEP_NUM_TASKS", 1))
    count = int(os.environ.get("SLURM_STEP_NUM_NODES") or os.environ["SLURM_JOB_NUM_NODES"])
    if tasks > count:
        raise DiffxError(
            f"Slurm started {tasks} tasks on {count} nodes, and diffx starts the processes of a node itself; "
            "type --ntasks-per-node=1."
        )
    if count == 1:
        return Node()
    return Node(int(os.environ["SLURM_NODEID"]), count, _first_host(), 20_000 + job % 20_000)


def srun(nodes: int) -> list[str]:
    """The command that starts one process on each node, with all processors that the job has there."""
    processors = os.environ.get("SLURM_CPUS_PER_TASK") or os.environ.get("SLURM_CPUS_ON_NODE", "1")
    layout = [f"--nodes={nodes}", f"--ntasks={nodes}", "--ntasks-per-node=1", f"--cpus-per-task={processors}"]
    return ["srun", *layout, "--kill-on-bad-exit=1"]


@contextmanager
def another_turn() -> Iterator[None]:
    """A run inside this block that was stopped by SIGUSR1 goes back into Slurm's queue. Jobs that are preempted Slurm
    puts back by itself, and one that was cancelled stays cancelled."""
    try:
        yield
    except Stopped as stop:
        if stop.requeue and in_job() and os.environ.get("SLURM_PROCID", "0") == "0":
            _requeue()
        raise


def _requeue() -> None:
    job = os.environ["SLURM_JOB_ID"]
    try:
        subprocess.run(["scontrol", "requeue", job], check=True, capture_output=True, text=True)
    except (OSError, subprocess.CalledProcessError) as error:
        reason = getattr(error, "stderr", "") or str(error)
        raise DiffxError(f"Slurm did not take job {job} back ({reason.strip()}); submit it again to go on.") from error
    print(f"job {job} is back in the queue", flush=True)


def restarts() -> int:
    """How often this job went back into the queue."""
    return int(os.environ.get("SLURM_RESTART_COUNT", 0))


def _first_host() -> str:
    listed = os.environ.get("SLURM_STEP_NODELIST") or os.environ["SLURM_JOB_NODELIST"]
    command = ["scontrol", "show", "hostnames", listed]
    try:
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()[0]
    except (OSError, subprocess.CalledProcessError) as error:
        raise DiffxError(f"`{' '.join(command)}`, which names the first node, failed: {error}.") from error
