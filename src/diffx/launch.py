"""Starting runs from resolved configurations: one here, or the runs of a sweep in processes of their own."""

import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from queue import SimpleQueue
from threading import Lock

import torch
from omegaconf import DictConfig, OmegaConf

from diffx.errors import DiffxError
from diffx.run import RunDir


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

    None: one for each GPU, or two on a CPU, where each run gets one thread: for small networks that costs the least
    processor time a step.
    """
    gpus = [str(i) for i in range(torch.cuda.device_count())]
    at_a_time = at_a_time or max(1, len(gpus) or min(2, os.cpu_count() or 1))
    free: SimpleQueue[str] = SimpleQueue()
    for slot in range(at_a_time):
        free.put(gpus[slot % len(gpus)] if gpus else "")
    talk = Lock()

    def one(config: DictConfig) -> str | None:
        gpu = free.get()
        try:
            return _run_process(config, gpu, talk)
        finally:
            free.put(gpu)

    with ThreadPoolExecutor(at_a_time) as pool:
        return [failure for failure in pool.map(one, configs) if failure]


def _run_process(config: DictConfig, gpu: str, talk: Lock) -> str | None:
    """One run in a process, its lines passed on behind its name; a sentence if it failed."""
    run = RunDir.of(config)
    name = f"{'+'.join(config.plugins) or 'plain'} s{config.seed}"
    environment = os.environ | {"PYTHONUNBUFFERED": "1"} | ({"CUDA_VISIBLE_DEVICES": gpu} if gpu else {})
    config = OmegaConf.merge(config, {"trainer": {"threads": config.trainer.threads or 1}})  # type: ignore[assignment]
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "config.yaml"
        file.write_text(OmegaConf.to_yaml(config))
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
