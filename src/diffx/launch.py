"""Starting runs from resolved configurations: one here, or the runs of a sweep in processes of their own."""

import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from queue import SimpleQueue
from threading import Event, Lock

import torch
from omegaconf import DictConfig, OmegaConf

from diffx import ranks
from diffx.errors import DiffxError
from diffx.run import RunDir


def launch(config: DictConfig) -> None:
    """Train, in this process or, with several devices, in one process each.

    The parent writes the resolved configuration once and starts `torchrun -m diffx.worker` on it. Ranks never compose
    a configuration, so they cannot disagree about one.
    """
    devices, nodes = config.trainer.devices, config.trainer.num_nodes
    if not isinstance(devices, int) or devices < 1 or not isinstance(nodes, int) or nodes < 1:
        raise DiffxError(
            f"trainer.devices={devices} and trainer.num_nodes={nodes} must be whole numbers of at least 1."
        )
    if devices * nodes == 1 or ranks.world() > 1:
        run_here(config)
        return
    if nodes > 1:
        raise DiffxError(
            f"trainer.num_nodes={nodes}: start one process a device with your cluster's own launcher, for instance "
            "`torchrun --nnodes ... -m diffx.worker config.yaml`; `python -m diffx ... --cfg job` prints that file."
        )
    with _config_file(config) as file:
        torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={devices}"]
        with subprocess.Popen([*torchrun, "-m", "diffx.worker", str(file)]) as process:
            try:
                code = process.wait()
            except KeyboardInterrupt:
                code = process.wait()  # the ranks have heard it too and are saving
    if code:
        raise DiffxError(f"A process of {RunDir.of(config).path} failed (exit code {code}); its message stands above.")


def run_here(config: DictConfig) -> None:
    """Train in this process."""
    threads = config.trainer.threads
    if threads is not None and (not isinstance(threads, int) or threads < 1):
        raise DiffxError(f"trainer.threads={threads} must be a whole number of at least 1, or null.")
    torch.set_num_threads(threads or min(2, os.cpu_count() or 1))
    from diffx.train import train

    train(config)


def run_all(configs: Sequence[DictConfig], at_a_time: int | None) -> list[str]:
    """Run a sweep, `at_a_time` runs at once, each a process; returns a sentence for each that failed.

    None: as many as the GPUs suffice for, or two on a CPU, where each run gets one thread: for small networks that
    costs the least processor time a step. Ctrl-C reaches the runs too, which save; no other is started.

    Raises:
        DiffxError: it was interrupted.
    """
    places = gpu_groups(configs[0].trainer.devices) or [""]
    at_a_time = at_a_time or (len(places) if places[0] else min(2, os.cpu_count() or 1))
    free: SimpleQueue[str] = SimpleQueue()
    for slot in range(at_a_time):
        free.put(places[slot % len(places)])
    talk, stopped = Lock(), Event()

    def one(config: DictConfig) -> str | None:
        gpus = free.get()
        try:
            return None if stopped.is_set() else _run_process(config, gpus, talk)
        finally:
            free.put(gpus)

    with ThreadPoolExecutor(at_a_time) as pool:
        try:
            return [failure for failure in pool.map(one, configs) if failure]
        except KeyboardInterrupt:
            stopped.set()
    raise DiffxError("The sweep was stopped and its runs saved; type the same command again to go on.")


def gpu_groups(devices: int) -> list[str]:
    """The GPUs that this process may use, `devices` to a run, as values of CUDA_VISIBLE_DEVICES."""
    allowed = os.environ.get("CUDA_VISIBLE_DEVICES")
    ids = allowed.split(",") if allowed else [str(i) for i in range(torch.cuda.device_count())]
    if not torch.cuda.is_available():
        return []
    return [",".join(ids[i : i + devices]) for i in range(0, len(ids) - devices + 1, devices)]


@contextmanager
def _config_file(config: DictConfig) -> Iterator[Path]:
    """The configuration as a file, for as long as a process may read it."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "config.yaml"
        file.write_text(OmegaConf.to_yaml(config))
        yield file


def _run_process(config: DictConfig, gpus: str, talk: Lock) -> str | None:
    """One run in a process, its lines passed on behind its name; a sentence if it failed."""
    run = RunDir.of(config)
    name = f"{'+'.join(config.plugins) or 'plain'} s{config.seed}"
    environment = os.environ | {"PYTHONUNBUFFERED": "1"} | ({"CUDA_VISIBLE_DEVICES": gpus} if gpus else {})
    config = OmegaConf.merge(config, {"trainer": {"threads": config.trainer.threads or 1}})  # type: ignore[assignment]
    with _config_file(config) as file:
        command = [sys.executable, "-m", "diffx.worker", str(file)]
        with subprocess.Popen(
            command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        ) as process:
            assert process.stdout is not None
            last = ""
            for line in process.stdout:
                last = line.rstrip() or last
                with talk:
                    print(f"[{name}] {line}", end="", flush=True)
    return None if process.returncode == 0 else f"{run.path}: {last}"
