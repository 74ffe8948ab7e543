"""The runs of a sweep, each in a process of its own."""

import os
import signal
import subprocess
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from dataclasses import replace
from queue import SimpleQueue
from threading import Lock

import torch
from rich.console import Console

from diffx.commands.launch import settings_file, worker
from diffx.commands.sweep.table import SweepTable
from diffx.config.settings import Settings
from diffx.errors import Stopped
from diffx.processes.children import PARENT, SAVED, SENTENCE, Children
from diffx.run.folder import RunDir
from diffx.run.screen import MARK, RECORDS


def places_of(devices: int, at_a_time: int | None) -> list[str]:
    """Where runs train at once: for each the GPUs that it may see, as a value of CUDA_VISIBLE_DEVICES, or "" on a CPU.

    at_a_time: None: as many as the GPUs suffice for, or two on a CPU, where each run gets one thread: for small
    networks that costs the least processor time a step.
    """
    groups = gpu_groups(devices) or [""]
    count = at_a_time or (len(groups) if groups[0] else min(2, os.cpu_count() or 1))
    return [groups[place % len(groups)] for place in range(count)]


def gpu_groups(devices: int) -> list[str]:
    """The GPUs that this process may use, `devices` to a run, as values of CUDA_VISIBLE_DEVICES."""
    allowed = os.environ.get("CUDA_VISIBLE_DEVICES")
    ids = allowed.split(",") if allowed else [str(i) for i in range(torch.cuda.device_count())]
    if not torch.cuda.is_available():
        return []
    return [",".join(ids[i : i + devices]) for i in range(0, len(ids) - devices + 1, devices)]


def run_all(jobs: Mapping[str, Settings], places: Sequence[str]) -> list[str]:
    """Run a sweep, each run under its name, as many at once as there are places; returns a sentence for each that
    failed. Signals reach the runs too, which save; no other is started.

    Raises:
        Stopped: it was interrupted.
    """
    free: SimpleQueue[str] = SimpleQueue()
    for place in places:
        free.put(place)
    console = Console()
    table = SweepTable(list(jobs), len(places), console) if console.is_terminal else None
    shown = table or Lines()

    with Children() as children, table or nullcontext(), ThreadPoolExecutor(len(places)) as pool:

        def one(name: str) -> str | None:
            gpus = free.get()
            try:
                return None if children.received else _run(name, jobs[name], gpus, shown, children)
            finally:
                free.put(gpus)

        failures = [failure for failure in pool.map(one, jobs) if failure]
    if children.received:
        requeue = signal.SIGUSR1 in children.received
        raise Stopped(
            "The sweep was stopped and its runs saved; type the same command again to go on.", requeue=requeue
        )
    return failures


class Lines:
    """Every line of every run behind its name, where the output is no terminal."""

    def __init__(self) -> None:
        self._talk = Lock()

    def begin(self, name: str) -> None:
        """Each run says so itself."""

    def hear(self, name: str, line: str) -> None:
        with self._talk:
            print(f"[{name}] {line.rstrip()}", flush=True)

    def end(self, name: str, failed: bool) -> None:
        """Each run says so itself."""


def _run(name: str, settings: Settings, gpus: str, shown: SweepTable | Lines, children: Children) -> str | None:
    """One run in a process, its lines passed on; a sentence if it failed."""
    run = RunDir.of(settings)
    environment = os.environ | {"PYTHONUNBUFFERED": "1", PARENT: str(os.getpid())}
    environment |= {"CUDA_VISIBLE_DEVICES": gpus} if gpus else {}
    environment |= {RECORDS: "1"} if isinstance(shown, SweepTable) else {}
    settings = replace(settings, trainer=replace(settings.trainer, threads=settings.trainer.threads or 1))
    shown.begin(name)
    with settings_file(settings) as file:
        command, output = worker(file), subprocess.PIPE
        with children.start(command, env=environment, stdout=output, stderr=subprocess.STDOUT, text=True) as process:
            assert process.stdout is not None
            last = ""
            for line in process.stdout:
                last = last if line.startswith(MARK) else line.rstrip() or last
                shown.hear(name, line)
    failed = process.returncode not in (0, *SAVED)
    shown.end(name, failed)
    return f"{run.path}: {last.removeprefix(SENTENCE)}" if failed else None
