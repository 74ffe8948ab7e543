"""Starting processes and ending them together: signals are passed on, and one failure ends all."""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from threading import Lock
from types import FrameType
from typing import Any, NamedTuple

from diffx.errors import REQUEUE, STOPPED

GRACE = 30.0  # seconds that the other ranks get to end after one has failed
SAVED = (STOPPED, REQUEUE)


class Children:
    """Processes that hear the SIGTERM and SIGUSR1 that this one gets. Ctrl-C they hear from the terminal, and this one
    goes on to wait for them, also in the background, where shells make commands deaf to it.

    received: the signals so far.
    """

    def __init__(self) -> None:
        self.received: list[int] = []
        self._processes: list[subprocess.Popen[Any]] = []
        self._previous: dict[int, Any] = {}
        self._lock = Lock()

    def __enter__(self) -> "Children":
        for number in (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT):
            self._previous[number] = signal.signal(number, self._receive)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)
        for process in self._processes:
            if process.poll() is None:
                process.kill()

    def start(self, command: Sequence[str], **options: Any) -> subprocess.Popen[Any]:
        """Start a process, unless a signal has come meanwhile: then it hears that at once."""
        with self._lock:
            process = subprocess.Popen(command, **options)
            self._processes.append(process)
        for number in self.received:
            process.send_signal(number)
        return process

    def send(self, number: int) -> None:
        for process in self._processes:
            if process.poll() is None:
                process.send_signal(number)

    def _receive(self, number: int, frame: FrameType | None) -> None:
        self.received.append(number)
        if number != signal.SIGINT:
            self.send(number)


class Node(NamedTuple):
    """One of the machines of a run: its number, how many there are, and where rank 0 listens."""

    rank: int = 0
    nodes: int = 1
    address: str = "127.0.0.1"
    port: int = 0


def run_ranks(command: Sequence[str], devices: int, node: Node | None = None) -> int:
    """Run a command in `devices` processes, numbered by RANK and WORLD_SIZE, and wait for them; returns an exit code.

    Like torchrun, which however kills ranks 30 s after a SIGTERM, whether they have saved or not, and dies of SIGUSR1
    without them.
    """
    node = node or Node()
    port = node.port or _free_port()
    with Children() as children:
        ranks = []
        for local in range(devices):
            numbers = {
                "RANK": node.rank * devices + local,
                "LOCAL_RANK": local,
                "WORLD_SIZE": node.nodes * devices,
                "LOCAL_WORLD_SIZE": devices,
                "MASTER_ADDR": node.address,
                "MASTER_PORT": port,
            }
            environment = os.environ | {key: str(value) for key, value in numbers.items()}
            ranks.append(children.start(command, env=environment))
        return _told(children, _wait(ranks, children.send))


def run_command(command: Sequence[str]) -> int:
    """Run a command that starts the rest by itself, such as srun, and wait for it; returns its exit code."""
    with Children() as children:
        return _told(children, _wait([children.start(command)], children.send))


def _told(children: Children, code: int) -> int:
    """A process that SIGUSR1 killed while it was starting, before it could listen, has nothing to save."""
    killed = (-signal.SIGUSR1, 128 + signal.SIGUSR1)
    return REQUEUE if signal.SIGUSR1 in children.received and code in killed else code


def this_python(module: str, *arguments: str) -> list[str]:
    """The command `python -m MODULE ARGUMENTS`."""
    return [sys.executable, "-m", module, *arguments]


def _wait(processes: Sequence[subprocess.Popen[Any]], send: Callable[[int], None]) -> int:
    """Wait for all; after one failed, the others, which wait for it, are told to end and then made to."""
    deadline = float("inf")
    first = 0
    while any(process.poll() is None for process in processes):
        codes = [process.poll() for process in processes]
        failed = next((code for code in codes if code), None)
        if failed and not first:
            first = failed
            if failed not in SAVED:
                send(signal.SIGTERM)
            deadline = time.monotonic() + (GRACE if failed not in SAVED else 10 * GRACE)
        if time.monotonic() > deadline:
            send(signal.SIGKILL)
        time.sleep(0.05)
    codes = [process.returncode for process in processes]
    return first or next((code for code in codes if code), 0)


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])
