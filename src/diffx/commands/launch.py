"""Starting runs from settings: one here, or the runs of a sweep in processes of their own."""

import os
import signal
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from queue import SimpleQueue
from threading import Lock

import torch

from diffx import ranks
from diffx.assemble.ready import look
from diffx.config.parse import write_settings
from diffx.config.settings import Settings
from diffx.errors import REQUEUE, DiffxError, Stopped
from diffx.processes import slurm
from diffx.processes.children import PARENT, SAVED, SENTENCE, Children, Ended, Node, run_command, run_ranks, this_python
from diffx.run.folder import RunDir


def launch(settings: Settings) -> None:
    """Train, in this process or, with several devices, in one process each.

    The parent writes the settings once and starts `diffx.worker` on it. Ranks never compose a
    configuration, so they cannot disagree about one. On several nodes, inside a Slurm job, srun starts a worker on
    each, which then starts its ranks.

    Raises:
        DiffxError: a process failed, or nothing says where the other nodes are.
        Stopped: a signal came, and the run was saved.
    """
    devices, nodes = settings.trainer.devices, settings.trainer.num_nodes
    if devices * nodes == 1 or ranks.world() > 1:
        train_here(settings)
        return
    look(settings)
    node = slurm.this_node() if slurm.is_task() else Node()
    if nodes == node.nodes:
        with _settings_file(settings) as file:
            _raise_unless_done(run_ranks(worker(file), devices, node), settings)
    elif slurm.in_job() and not slurm.is_task():
        with _settings_file(settings, Path(settings.runs_dir)) as file:
            _raise_unless_done(run_command([*slurm.srun(nodes), *worker(file.absolute())]), settings)
    else:
        raise DiffxError(
            f"trainer.num_nodes={nodes}, but this is {node.nodes} node: run the same command inside a Slurm job of "
            f"{nodes} nodes, or start `torchrun --nnodes={nodes} --nproc-per-node={devices} -m diffx.worker FILE` on "
            "each; `python -m diffx ... --cfg job --resolve` prints that file."
        )


def _raise_unless_done(ended: Ended, settings: Settings) -> None:
    """What the end of other processes means for this one."""
    if ended.code in SAVED:
        raise Stopped(ended.sentence, requeue=ended.code == REQUEUE)
    if ended.code:
        raise DiffxError(ended.explain(str(RunDir.of(settings).path)))


def train_here(settings: Settings) -> None:
    """Train in this process."""
    torch.set_num_threads(settings.trainer.threads or min(2, os.cpu_count() or 1))
    from diffx.train.loop import train

    train(settings)


def run_all(configs: Sequence[Settings], at_a_time: int | None) -> list[str]:
    """Run a sweep, `at_a_time` runs at once, each a process; returns a sentence for each that failed.

    None: as many as the GPUs suffice for, or two on a CPU, where each run gets one thread: for small networks that
    costs the least processor time a step. Signals reach the runs too, which save; no other is started.

    Raises:
        Stopped: it was interrupted.
    """
    places = gpu_groups(configs[0].trainer.devices) or [""]
    at_a_time = at_a_time or (len(places) if places[0] else min(2, os.cpu_count() or 1))
    free: SimpleQueue[str] = SimpleQueue()
    for slot in range(at_a_time):
        free.put(places[slot % len(places)])
    talk = Lock()

    with Children() as children, ThreadPoolExecutor(at_a_time) as pool:

        def one(settings: Settings) -> str | None:
            gpus = free.get()
            try:
                return None if children.received else _run_process(settings, gpus, talk, children)
            finally:
                free.put(gpus)

        failures = [failure for failure in pool.map(one, configs) if failure]
    if children.received:
        requeue = signal.SIGUSR1 in children.received
        raise Stopped(
            "The sweep was stopped and its runs saved; type the same command again to go on.", requeue=requeue
        )
    return failures


def gpu_groups(devices: int) -> list[str]:
    """The GPUs that this process may use, `devices` to a run, as values of CUDA_VISIBLE_DEVICES."""
    allowed = os.environ.get("CUDA_VISIBLE_DEVICES")
    ids = allowed.split(",") if allowed else [str(i) for i in range(torch.cuda.device_count())]
    if not torch.cuda.is_available():
        return []
    return [",".join(ids[i : i + devices]) for i in range(0, len(ids) - devices + 1, devices)]


@contextmanager
def _settings_file(settings: Settings, folder: Path | None = None) -> Iterator[Path]:
    """The settings as a file, for as long as a process may read it; in `folder` where other nodes see it too."""
    if folder is not None:
        folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder, prefix=".launch-") as temporary:
        yield write_settings(settings, Path(temporary) / "config.yaml")


def worker(file: Path) -> list[str]:
    """The command that trains the settings in a file, which this process has written."""
    return this_python("diffx.worker", str(file), "--trust")


def _run_process(settings: Settings, gpus: str, talk: Lock, children: Children) -> str | None:
    """One run in a process, its lines passed on behind its name; a sentence if it failed."""
    run = RunDir.of(settings)
    name = f"{settings.label} s{settings.seed}"
    environment = os.environ | {"PYTHONUNBUFFERED": "1", PARENT: str(os.getpid())}
    environment |= {"CUDA_VISIBLE_DEVICES": gpus} if gpus else {}
    settings = replace(settings, trainer=replace(settings.trainer, threads=settings.trainer.threads or 1))
    with _settings_file(settings) as file:
        command, output = worker(file), subprocess.PIPE
        with children.start(command, env=environment, stdout=output, stderr=subprocess.STDOUT, text=True) as process:
            assert process.stdout is not None
            last = ""
            for line in process.stdout:
                last = line.rstrip() or last
                with talk:
                    print(f"[{name}] {line}", end="", flush=True)
    return None if process.returncode in (0, *SAVED) else f"{run.path}: {last.removeprefix(SENTENCE)}"
