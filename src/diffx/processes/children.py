"""Starting processes and ending them together: signals are passed on, and one failure ends all."""

import ctypes
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from threading import Lock, Thread
from types import FrameType
from typing import Any, NamedTuple

from diffx.errors import REQUEUE, STOPPED

GRACE = 30.0  # seconds that the other ranks get to end after one has failed
PAUSE = 1.0
HEARD: dict[str, Any] = {"stderr": subprocess.PIPE, "text": True, "errors": "replace"}
SAVED = (STOPPED, REQUEUE)
SENTENCE = "diffx: "  # before what a command of diffx has to say when it ends
PARENT = "DIFFX_PARENT"  # the process that a worker ends with
PR_SET_PDEATHSIG = 1


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


class Ended(NamedTuple):
    """How processes ended: the exit code of the first that failed, or 0, its sentence, and else the last it printed."""

    code: int
    sentence: str = ""
    last: str = ""

    def explain(self, what: str) -> str:
        """Why it failed, in one sentence."""
        killed = "killed, as when memory runs out" if self.code == -signal.SIGKILL else ""
        why = killed or self.last
        return self.sentence or f"A process of {what} failed (exit code {self.code}){': ' if why else ''}{why}."


class Heard:
    """A process whose stderr is passed on as it comes, but for its one sentence, which is kept: the caller says it,
    once for all processes that had the same to say."""

    def __init__(self, process: "subprocess.Popen[Any]") -> None:
        self.process = process
        self.sentence = self.last = ""
        self._listener = Thread(target=self._listen, daemon=True)
        self._listener.start()

    def _listen(self) -> None:
        assert self.process.stderr is not None
        for line in self.process.stderr:
            if line.startswith(SENTENCE):
                self.sentence = line.removeprefix(SENTENCE).rstrip()
                continue
            self.last = line.rstrip() or self.last
            sys.stderr.write(line)
            sys.stderr.flush()

    def ended(self) -> Ended:
        """Once it has: its workers may hold its stderr open for a while."""
        self._listener.join(timeout=PAUSE)
        return Ended(self.process.returncode, self.sentence, self.last)


def run_ranks(command: Sequence[str], devices: int, node: Node | None = None) -> Ended:
    """Run a command in `devices` processes, numbered by RANK and WORLD_SIZE, and wait for them.

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
                PARENT: os.getpid(),
            }
            environment = os.environ | {key: str(value) for key, value in numbers.items()}
            ranks.append(Heard(children.start(command, env=environment, **HEARD)))
        return _told(children, _wait(ranks, children.send))


def run_command(command: Sequence[str]) -> Ended:
    """Run a command that starts the rest by itself, such as srun, and wait for it."""
    environment = {key: value for key, value in os.environ.items() if key != PARENT}
    with Children() as children:
        started = children.start(command, env=environment, **HEARD)
        return _told(children, _wait([Heard(started)], children.send))


def _told(children: Children, ended: Ended) -> Ended:
    """A process that SIGUSR1 killed while it was starting, before it could listen, has nothing to save."""
    killed = (-signal.SIGUSR1, 128 + signal.SIGUSR1)
    return Ended(REQUEUE) if signal.SIGUSR1 in children.received and ended.code in killed else ended


def end_with_parent() -> None:
    """Have this process get SIGTERM, upon which it saves, when the one that started it is gone, even by kill -9: ranks
    without a parent would train on with nobody, or end unsaved at the first line that they print.

    Linux only; elsewhere nothing happens.
    """
    parent = int(os.environ.get(PARENT, 0))
    if not parent or not sys.platform.startswith("linux"):
        return
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
    if os.getppid() != parent:  # it was gone before the kernel knew
        os.kill(os.getpid(), signal.SIGTERM)


def is_orphan() -> bool:
    """Whether the process that started this one is gone."""
    parent = int(os.environ.get(PARENT, 0))
    return bool(parent) and os.getppid() != parent


def this_python(module: str, *arguments: str) -> list[str]:
    """The command `python -m MODULE ARGUMENTS`."""
    return [sys.executable, "-m", module, *arguments]


def _wait(processes: Sequence[Heard], send: Callable[[int], None]) -> Ended:
    """Wait for all; after one failed, the others, which wait for it, are told to end and then made to."""
    deadline = float("inf")
    first = Ended(0)
    while any(one.process.poll() is None for one in processes):
        failed = [one for one in processes if one.process.poll()]
        if failed and not first.code:
            first = _telling(failed)
            if first.code not in SAVED:
                send(signal.SIGTERM)
            deadline = time.monotonic() + (GRACE if first.code not in SAVED else 10 * GRACE)
        if time.monotonic() > deadline:
            send(signal.SIGKILL)
        time.sleep(0.05)
    failed = [one for one in processes if one.process.returncode]
    return first if first.code or not failed else _telling(failed)


def _telling(failed: Sequence[Heard]) -> Ended:
    """Of processes that ended together the first with a sentence: the others have lost it, which says less."""
    ended = [one.ended() for one in failed]
    return next((one for one in ended if one.sentence), ended[0])


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])
