"""A forked command behaves as one that was started: output, exit codes, signals, parents, children of its own."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests import forks

PYTHON = [sys.executable, "-c"]
each_way = pytest.mark.parametrize("start", [subprocess.run, forks.run], ids=["started", "forked"])


@each_way
def test_a_command_has_its_arguments_folder_environment_and_output(start, tmp_path: Path) -> None:
    code = "import os, sys; print(sys.argv, os.getcwd(), dict(os.environ)); print('no', file=sys.stderr); sys.exit(7)"
    environment = {"PATH": "/bin", "ONLY": "this", "LC_CTYPE": "C.UTF-8"}
    done = start([*PYTHON, code, "a", "b"], cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.stdout == f"['-c', 'a', 'b'] {tmp_path} {environment}\n"
    assert (done.stderr, done.returncode) == ("no\n", 7)


@each_way
def test_an_exception_ends_a_command_with_its_traceback(start) -> None:
    done = start([*PYTHON, "raise ValueError('bad')"], capture_output=True, text=True)
    assert done.returncode == 1
    assert done.stderr.startswith("Traceback")
    assert done.stderr.endswith("ValueError: bad\n")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1, signal.SIGKILL, signal.SIGINT])
@pytest.mark.parametrize("popen", [subprocess.Popen, forks.Popen], ids=["started", "forked"])
def test_a_signal_ends_a_command_that_does_not_listen(popen, number: int) -> None:
    waiting = "import time; print('here', flush=True); time.sleep(60)"
    with popen([*PYTHON, waiting], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as process:
        process.stdout.readline()
        process.send_signal(number)
        assert process.wait() == -number


NESTED = """
import os, subprocess, sys
child = "import os; print(os.getppid())"
said = subprocess.run([sys.executable, "-c", child], stdout=subprocess.PIPE, text=True).stdout
assert int(said) == os.getpid(), said
group = "import os; print(os.getpgid(0))"
assert int(subprocess.run([sys.executable, "-c", group], stdout=subprocess.PIPE, text=True).stdout) == os.getpid()
print(os.getppid(), os.getpgid(0), os.getpid())
"""


@each_way
def test_a_command_is_the_child_of_who_asked_and_so_are_its_own_in_its_group(start) -> None:
    done = start([*PYTHON, NESTED], start_new_session=True, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    parent, group, own = map(int, done.stdout.split())
    assert parent == os.getpid()
    assert group == own


def test_a_forked_command_finds_torch_imported() -> None:
    done = forks.run([*PYTHON, "import sys; print('lightning' in sys.modules)"], stdout=subprocess.PIPE, text=True)
    assert done.stdout == "True\n"


def test_ranks_run_a_function_twice(tmp_path: Path) -> None:
    forks.ranks(leave_a_file, str(tmp_path))
    assert sorted(file.name for file in tmp_path.iterdir()) == ["0", "1"]


def leave_a_file(rank: int, folder: str) -> None:
    Path(folder, str(rank)).touch()


def test_a_rank_that_fails_fails_the_test_and_ends_the_other() -> None:
    with pytest.raises(AssertionError, match="only the first"):
        forks.ranks(fail_or_wait)


def fail_or_wait(rank: int) -> None:
    import time

    if rank:
        time.sleep(600)
    raise ValueError("only the first")
