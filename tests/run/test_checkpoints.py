"""Checkpoints are sealed, written beside training, as often as their own cost allows, and read once."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from diffx import ranks
from diffx.checkpoint import native
from diffx.checkpoint.native import newest_checkpoint, whole_checkpoint
from diffx.errors import DiffxError
from diffx.processes.devices import join_processes, own_device, process_group
from diffx.run.folder import RunDir
from diffx.store.archive import check_archive, write_archive
from diffx.store.later import Later
from diffx.train import callbacks
from diffx.train.callbacks import Checkpoints
from diffx.train.clock import Meter
from tests import forks
from tests.run.conftest import OFTEN, small
from tests.run.test_kept import flip

Run = Callable[..., RunDir]


def test_every_flipped_bit_of_a_checkpoint_is_found(tmp_path: Path) -> None:
    """In the members, between them, in the directory of the archive and in the seal itself."""
    content = {"a": torch.arange(600.0), "b": {"c": torch.tensor(1)}}
    write_archive(content, {"run": "x/s0", "step": "8"}, tmp_path / "w")
    whole = (tmp_path / "w").read_bytes()
    assert check_archive(tmp_path / "w") == {"run": "x/s0", "step": "8"}
    assert torch.equal(torch.load(tmp_path / "w", weights_only=True)["a"], content["a"])
    assert torch.equal(torch.load(tmp_path / "w", weights_only=True, mmap=True)["a"], content["a"])
    for bit in range(0, 8 * len(whole), 13):
        (tmp_path / "w").write_bytes(whole)
        flip(tmp_path / "w", bit)
        with pytest.raises(DiffxError):
            check_archive(tmp_path / "w")


def test_a_checkpoint_cut_short_or_lengthened_is_found(tmp_path: Path) -> None:
    write_archive({"a": torch.arange(600.0)}, {"run": "x/s0"}, tmp_path / "w")
    whole = (tmp_path / "w").read_bytes()
    for content in (whole[:-1], whole[: len(whole) // 2], whole[:10], b"", whole + b"\0"):
        (tmp_path / "w").write_bytes(content)
        with pytest.raises(DiffxError):
            check_archive(tmp_path / "w")


def test_a_checkpoint_without_a_seal_has_its_members_compared(tmp_path: Path) -> None:
    torch.save({"a": torch.arange(600.0)}, tmp_path / "w")
    assert check_archive(tmp_path / "w") == {}
    flip(tmp_path / "w", 8 * ((tmp_path / "w").read_bytes().find(torch.arange(600.0).numpy().tobytes()) + 9))
    with pytest.raises(DiffxError, match="damaged"):
        check_archive(tmp_path / "w")


def test_a_runs_checkpoint_says_its_run_and_step(run: Run) -> None:
    directory = run("max_steps=2")
    facts = check_archive(directory.last_checkpoint)
    assert facts == {"run": f"{directory.path.parent.name}/s0", "step": "2"}


def test_work_goes_on_beside_and_the_next_waits_for_it() -> None:
    later, done, go = Later(), list[int](), threading.Event()

    def first() -> None:
        go.wait(10)
        done.append(1)

    later.do(first)
    assert done == []
    go.set()
    later.do(lambda: done.append(2))
    later.wait()
    assert done == [1, 2]


def test_what_went_wrong_beside_is_raised_once_and_by_the_next_that_asks() -> None:
    later = Later()

    def fail() -> None:
        raise DiffxError("full")

    later.check()
    later.do(fail)
    with pytest.raises(DiffxError, match="full"):
        later.wait()
    later.wait()
    later.do(fail)
    while not later._work.done():  # type: ignore[union-attr]
        time.sleep(0.001)
    with pytest.raises(DiffxError, match="full"):
        later.check()


def test_the_processor_time_beside_is_not_trainings() -> None:
    later, meter = Later(), Meter(torch.device("cpu"))
    meter.beside = later.seconds
    meter.start()
    meter.step()
    meter.step()

    def work() -> None:
        until = time.thread_time() + 0.3
        while time.thread_time() < until:
            pass

    later.do(work)
    later.wait()
    meter.step()
    assert meter.unbooked() >= 0.3
    meter.book_beside("checkpoint")
    assert meter.seconds["train"] < 0.1
    assert meter.seconds["checkpoint"] >= 0.3
    assert meter.unbooked() < 0.01


def checkpoints(took: float, minutes: float = 5) -> Checkpoints:
    """Those of a run whose last save took so many seconds, and was ten minutes ago by the clock."""
    made = Checkpoints(RunDir(Path()), Meter(torch.device("cpu")), minutes, 0.01, last_is_good=True)
    made.meter.seconds["checkpoint"] = took
    made._last -= 600
    return made


def test_saving_takes_at_most_its_share_of_training() -> None:
    made = checkpoints(took=4)
    for trained, due in ((399, False), (401, True)):
        made.meter.seconds["train"] = trained
        assert made.due() == due


def test_checkpoints_are_the_least_minutes_apart_however_cheap() -> None:
    made = checkpoints(took=0, minutes=11)
    made.meter.seconds["train"] = 600
    assert not made.due()
    made._last -= 61
    assert made.due()


def test_training_goes_on_while_a_checkpoint_is_written(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """The thread that writes the first is held until the run has taken further steps."""
    copy = callbacks.copy_checkpoint
    further, steps = threading.Event(), list[int]()

    def held(*arguments: object, **named: object) -> Callable[[], None]:
        write = copy(*arguments, **named)  # type: ignore[arg-type]
        return lambda: (further.wait(60), write())[1]

    def seen(self: Checkpoints, trainer: object, module: object) -> None:
        steps.append(trainer.global_step)  # type: ignore[attr-defined]
        if len(steps) == 1:
            self.save(trainer, module)  # type: ignore[arg-type]
        if len(steps) == 4:
            further.set()
            self.finish()
            saved.append(check_archive(self.run.last_checkpoint)["step"])

    saved: list[str] = []
    monkeypatch.setattr(callbacks, "copy_checkpoint", held)
    monkeypatch.setattr(Checkpoints, "after_step", seen)
    run("max_steps=6")
    assert steps == [1, 2, 3, 4, 5, 6]
    assert saved == ["1"]  # what was copied at the first step, whatever training has done to the weights since


def test_a_disk_that_goes_full_beside_training_ends_the_run(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("diffx.train.checkpoint.write_archive", refused)
    with pytest.raises(DiffxError, match="No space left on device"):
        run("max_steps=1000", *OFTEN)
    (record,) = Path().glob("runs/digits/*/s0/run.json")
    assert json.loads(record.read_text())["status"] == "failed"


SLOW = """
import runpy, sys, time
import diffx.train.checkpoint as c
write = c.write_archive
def slowly(content, facts, path):
    write(content, facts, path)
    if int(facts["step"]) > 4:
        print("half way", flush=True)
        time.sleep(30 if "kill" in sys.argv else 1)
c.write_archive = slowly
sys.argv = [a for a in sys.argv if a != "kill"]
runpy.run_module("diffx", run_name="__main__")
"""


@pytest.mark.parametrize("how", ["kill", "term"])
def test_a_signal_while_a_checkpoint_is_written(how: str, tmp_path: Path) -> None:
    """kill -9 leaves the one before, whole; after SIGTERM the process ends only when what it copied is on disk."""
    command = [sys.executable, "-u", "-c", SLOW, *([how] if how == "kill" else []), *small(*OFTEN, "max_steps=100000")]
    with forks.Popen(command, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        for line in process.stdout:
            if "half way" in line:
                break
        process.send_signal(signal.SIGKILL if how == "kill" else signal.SIGTERM)
        process.communicate(timeout=120)
    (path,) = tmp_path.glob("runs/digits/*/s0")
    directory = RunDir(path)
    step = int(check_archive(directory.last_checkpoint)["step"])
    if how == "kill":
        assert step == 4
        assert newest_checkpoint(directory) == directory.last_checkpoint
    else:
        assert process.returncode == 3
        assert step > 4
        assert not list(path.glob("checkpoints/.*"))


def check_on_rank(rank: int, folder: str) -> None:
    """Both look for the newest checkpoint; only the first may read all of the file."""
    os.environ["RANK"] = str(rank)
    torch.distributed.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2)
    checked: list[Path] = []
    native.check_archive = lambda path: checked.append(path) or {}  # type: ignore[func-returns-value]
    path = Path(folder, "last.ckpt")
    assert ranks.firsts(lambda: whole_checkpoint(path)) == path
    assert checked == ([path] if rank == 0 else [])

    def damaged() -> Path:
        raise DiffxError("damaged")

    with pytest.raises(DiffxError, match="damaged"):
        ranks.firsts(damaged)
    torch.distributed.barrier()
    torch.distributed.destroy_process_group()


def test_one_rank_checks_a_checkpoint_for_all_and_all_hear_what_is_wrong(tmp_path: Path) -> None:
    forks.spawn(check_on_rank, (str(tmp_path),), 2)


def test_a_resume_reads_a_checkpoint_once_and_maps_it(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    run("max_steps=2")
    loads: list[bool] = []
    load, check, checks = torch.load, native.check_archive, list[Path]()

    def watched(file: object, **named: object) -> object:
        if str(file).endswith(".ckpt"):
            loads.append(bool(named.get("mmap")))
        return load(file, **named)  # type: ignore[arg-type]

    monkeypatch.setattr(torch, "load", watched)
    monkeypatch.setattr(native, "check_archive", lambda path: (checks.append(path), check(path))[1])
    run("max_steps=4")
    assert len(checks) == 1
    assert set(loads) == {True}


def test_a_process_takes_its_own_gpu_before_anything_else_is_asked_of_cuda(monkeypatch: pytest.MonkeyPatch) -> None:
    """Seen on a CPU, with a torch that tells what it was asked; on GPUs nobody has looked yet."""
    asked: list[str] = []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)
    monkeypatch.setattr(torch.cuda, "set_device", lambda device: asked.append(str(device)))
    monkeypatch.setattr(torch.distributed, "init_process_group", lambda backend, **_: asked.append(backend))
    monkeypatch.setattr(torch.distributed, "destroy_process_group", lambda: None)
    monkeypatch.setenv("LOCAL_RANK", "3")
    monkeypatch.setenv("WORLD_SIZE", "4")
    with process_group():
        assert asked == ["cuda:3", "cpu:gloo,cuda:nccl"]
    asked.clear()
    join_processes("cpu")
    assert asked == ["gloo"]
    asked.clear()
    assert own_device("auto") == torch.device("cuda", 3)
    assert asked == ["cuda:3"]


def test_training_takes_its_gpu_before_it_builds_anything(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    order: list[str] = []
    from diffx.train import loop

    join, assemble = loop.join_processes, loop.assemble
    monkeypatch.setattr(loop, "join_processes", lambda *a: (order.append("device"), join(*a))[1])
    monkeypatch.setattr(loop, "assemble", lambda *a: (order.append("build"), assemble(*a))[1])
    run("max_steps=1")
    assert order == ["device", "build"]
