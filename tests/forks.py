"""Python processes that start in milliseconds: forks of one that has torch, Lightning and diffx imported.

`Popen` and `run` are subprocess's, for commands like `python -m diffx ...`. A process so started is a child of the one
that asked, so that signals, exit codes and process groups are the system's own, and its own children start in the same
way. What cannot be had so is what happens before the first import: /proc/PID/environ, and variables that are read then.
"""

import atexit
import ctypes
import functools
import gc
import inspect
import io
import json
import os
import pickle
import runpy
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import traceback
import types
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from threading import Lock
from typing import Any, NoReturn

import torch

ROOT = Path(__file__).parents[1]
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)
PR_SET_CHILD_SUBREAPER = 36
REQUEST = 1 << 18  # bytes: a command line and an environment
SCRIPT = f"#!{sys.executable}\n".encode()


class Forks:
    """The other end of a process that forks when asked."""

    def __init__(self, control: socket.socket) -> None:
        self._control, self._lock = control, Lock()

    def start(self, request: dict[str, Any], files: list[int]) -> int:
        """A new child of this process; returns its id."""
        message = json.dumps(request | {"parent": os.getpid()}).encode()
        with self._lock:
            # The new process is an orphan for a moment, and comes to the nearest ancestor that takes orphans in.
            _take_orphans(True)
            try:
                socket.send_fds(self._control, [message], files)
                answer = self._control.recv(32)
            finally:
                _take_orphans(False)
        assert answer, "the process that forks has ended"
        return int(answer)


Started = subprocess.Popen  # forked processes replace it


class Popen(Started):
    """subprocess.Popen, but Python commands are forked."""

    def _execute_child(self, *arguments: Any) -> None:
        names = list(inspect.signature(Started._execute_child).parameters)[1:]
        given = dict(zip(names, arguments, strict=True))
        environment = os.environ if given["env"] is None else given["env"]
        command = _of_python(given["args"], environment)
        if not command or given["preexec_fn"] or given["pass_fds"]:
            super()._execute_child(*arguments)
            return
        request = {
            "command": command,
            "folder": os.path.abspath(given["cwd"] or "."),
            "environment": dict(environment),
            "session": given["start_new_session"],
        }
        ends = [given["p2cread"], given["c2pwrite"], given["errwrite"]]
        self.pid = forks().start(request, [end if end != -1 else place for place, end in enumerate(ends)])
        self._child_created = True
        kinds = ("p2cread", "p2cwrite", "c2pread", "c2pwrite", "errread", "errwrite")
        self._close_pipe_fds(*(given[name] for name in kinds))


def _of_python(command: Any, environment: Mapping[str, str]) -> list[str]:
    """What follows `python` in a command that runs a module, code, or a script of this Python; else nothing."""
    if isinstance(command, str | bytes | os.PathLike):
        return []
    program, *rest = (os.fspath(part) for part in command)
    if program == sys.executable:
        return rest if {"-m", "-c"} & set(rest[:2]) else []
    file = shutil.which(program, path=environment.get("PATH"))
    return [file, *rest] if file and Path(file).read_bytes().startswith(SCRIPT) else []


def run(
    command: Sequence[str | Path], *, capture_output: bool = False, check: bool = False, **options: Any
) -> subprocess.CompletedProcess:
    """subprocess.run, but Python commands are forked."""
    if capture_output:
        options |= {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with Popen(command, **options) as process:
        output, errors = process.communicate()
    done = subprocess.CompletedProcess(command, process.returncode, output, errors)
    if check:
        done.check_returncode()
    return done


def ranks(function: Callable[..., None], *arguments: Any) -> None:
    """`function(rank, *arguments)` in two processes, one thread each; `function` is one that a module names."""
    with tempfile.TemporaryDirectory() as temporary:
        file = Path(temporary, "arguments")
        file.write_bytes(pickle.dumps(arguments))
        code = (
            "import importlib, pickle, sys, torch\n"
            "torch.set_num_threads(1)\n"
            "module, name, file, rank = sys.argv[1:]\n"
            f"sys.path += {sys.path}\n"
            "arguments = pickle.load(open(file, 'rb'))\n"
            "getattr(importlib.import_module(module), name)(int(rank), *arguments)\n"
        )
        place = [function.__module__, function.__qualname__, str(file)]
        both = [
            Popen([sys.executable, "-c", code, *place, str(rank)], stderr=subprocess.PIPE, text=True) for rank in (0, 1)
        ]
        said = _end_together(both)
    assert [process.returncode for process in both] == [0, 0], "\n".join(said)


def spawn(function: Callable[..., None], args: tuple[Any, ...] = (), nprocs: int = 1) -> None:
    """torch.multiprocessing.spawn for two ranks."""
    assert nprocs == 2
    ranks(function, *args)


def _end_together(processes: list[subprocess.Popen[str]]) -> list[str]:
    """What both said on stderr; one that fails ends the other, which may wait for it."""
    files = [process.stderr for process in processes]
    while any(process.poll() is None for process in processes):
        if any(process.poll() for process in processes):
            time.sleep(1)
            for process in processes:
                process.kill()
        time.sleep(0.01)
    return [file.read() for file in files if file]


@functools.cache
def forks() -> Forks:
    """Those of this process, started at the first use; a forked process has its own from the beginning."""
    here, there = _pair()
    command = [sys.executable, "-c", f"from tests.forks import serve; serve({there.fileno()})"]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])}
    process = Started(command, env=environment, pass_fds=[there.fileno()])
    there.close()
    atexit.register(process.wait)
    atexit.register(here.close)
    return Forks(here)


def serve(descriptor: int) -> None:
    """Import what takes long, then fork for every request until nobody can ask any more."""

    import diffx.checkpoint
    import diffx.commands.train
    import diffx.compare
    import diffx.metrics
    import diffx.prepare
    import diffx.train.loop  # noqa: F401

    gc.freeze()
    for number in SIGNALS:
        signal.signal(number, signal.SIG_IGN)
    control = socket.socket(fileno=descriptor)
    while True:
        request, files = _wait_for_a_fork(control)
        if request["session"]:
            os.setsid()
        here, there = _pair()
        if os.fork():
            break
        # This one stays as it is now, to fork the children of the other.
        for file in (here.detach(), *files):
            os.close(file)
        for place in range(3):
            os.dup2(os.open(os.devnull, os.O_RDWR), place)
        control = there
    there.close()
    globals()["forks"] = lambda: Forks(here)
    _become(request, files)
    try:
        _execute(request["command"])
        code = 0
    except BaseException as end:
        code = _exit_code(end)
    _leave(code)


def _pair() -> tuple[socket.socket, socket.socket]:
    pair = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    for end in pair:
        end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, REQUEST)
    return pair


def _take_orphans(on: bool) -> None:
    ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, int(on), 0, 0, 0)


def _wait_for_a_fork(control: socket.socket) -> tuple[dict[str, Any], list[int]]:
    """Fork for every request; returns, with the request, in the forked processes only."""
    while True:
        message, files, _, _ = socket.recv_fds(control, REQUEST, 3)
        if not message:
            os._exit(0)
        read, write = os.pipe()
        between = os.fork()
        if not between:
            child = os.fork()
            if child:
                os.write(write, str(child).encode())
                os._exit(0)
            for end in (read, write):
                os.close(end)
            control.close()
            return json.loads(message), files
        os.waitpid(between, 0)  # from now on the new process is a child of the one that asked
        control.send(os.read(read, 32))
        for file in (read, write, *files):
            os.close(file)


def _become(request: dict[str, Any], files: list[int]) -> None:
    """Turn this forked process into what a fresh one with this command line would be at its first statement."""
    while os.getppid() != request["parent"]:
        time.sleep(0.0005)
    for place, file in enumerate(files):
        os.dup2(file, place)
        os.close(file)
    os.chdir(request["folder"])
    os.environ.clear()
    os.environ.update(request["environment"])
    for number in SIGNALS:
        signal.signal(number, signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL)
    unbuffered = "-u" in request["command"][:1] or "PYTHONUNBUFFERED" in os.environ
    assert isinstance(sys.stdout, io.TextIOWrapper)
    sys.stdout.reconfigure(line_buffering=sys.stdout.isatty(), write_through=unbuffered)
    paths = [path for path in os.environ.get("PYTHONPATH", "").split(os.pathsep) if path]
    sys.path[:] = [request["folder"], *paths, *(path for path in sys.path[1:] if path not in paths)]
    if "OMP_NUM_THREADS" in os.environ:
        torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
    subprocess.Popen, torch.multiprocessing.spawn = Popen, spawn  # type: ignore[misc]


def _execute(command: list[str]) -> None:
    kind, *rest = command[1:] if command[0] == "-u" else command
    if kind not in ("-m", "-c"):
        sys.argv = [kind, *rest]
        runpy.run_path(kind, run_name="__main__")
        return
    what, *rest = rest
    sys.argv = [kind, *rest]
    if kind == "-m":
        runpy.run_module(what, run_name="__main__", alter_sys=True)
    else:
        module = sys.modules["__main__"] = types.ModuleType("__main__")
        exec(compile(what, "<string>", "exec"), module.__dict__)


def _exit_code(end: BaseException) -> int:
    """What the interpreter makes of an exception that nobody caught."""
    if isinstance(end, SystemExit):
        if end.code is None or isinstance(end.code, int):
            return end.code or 0
        print(end.code, file=sys.stderr)
        return 1
    traceback.print_exception(end)
    return -signal.SIGINT if isinstance(end, KeyboardInterrupt) else 1


def _leave(code: int) -> NoReturn:
    """End as the interpreter does, but without taking all modules apart, which takes a second."""
    threading._shutdown()
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    if code < 0:
        signal.signal(-code, signal.SIG_DFL)
        os.kill(os.getpid(), -code)
    os._exit(code & 255)
