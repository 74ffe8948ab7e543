"""Nothing is started on many devices before one process has looked, and a launch that fails says why, once."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch

from diffx.assemble import ready
from diffx.assemble.model import build_model
from diffx.assemble.ready import bytes_of_training, least_bytes_of_an_image, look
from diffx.commands import launch as launching
from diffx.commands.launch import launch
from diffx.config.compose import compose_config
from diffx.errors import DiffxError
from diffx.processes import children as processes
from diffx.processes.children import run_ranks
from diffx.processes.devices import check_devices, pick_device
from tests.run.conftest import SMALL, small, training


@pytest.fixture
def nothing_starts(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        pytest.fail("processes were started")

    monkeypatch.setattr(launching, "run_ranks", refuse)


def gpus(monkeypatch: pytest.MonkeyPatch, count: int) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: count > 0)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: count)


def test_the_readmes_line_without_data_says_what_one_device_says_and_builds_nothing(
    nothing_starts: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It started eight processes that each built 675M parameters, until the kernel killed them."""
    monkeypatch.chdir(tmp_path)
    made: list[str] = []
    build = ready.build_model
    monkeypatch.setattr(ready, "build_model", lambda s, device: made.append(device) or build(s, device))
    said = []
    for devices in (1, 8):
        with pytest.raises(DiffxError) as refused:
            launch(compose_config(["+experiment=repa_xl", f"trainer.devices={devices}"]))
        said.append(str(refused.value))
    assert said[0] == said[1]
    assert "python -m diffx.prepare" in said[0]
    assert made == ["meta", "meta"]


def test_processes_on_a_cpu_are_asked_for(nothing_starts: None, monkeypatch: pytest.MonkeyPatch) -> None:
    gpus(monkeypatch, 0)
    with pytest.raises(DiffxError, match=r"no GPU here; type trainer\.accelerator=cpu"):
        launch(compose_config(small("trainer.devices=2", "trainer.accelerator=auto")))


def test_more_gpus_than_there_are_is_refused_with_the_number(monkeypatch: pytest.MonkeyPatch) -> None:
    gpus(monkeypatch, 2)
    check_devices("auto", 2)
    with pytest.raises(DiffxError, match=r"trainer\.devices=8, and torch sees 2 here; type trainer\.devices=2"):
        check_devices("auto", 8)


def test_a_process_beyond_the_gpus_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """torchrun may start as many as it likes."""
    gpus(monkeypatch, 2)
    monkeypatch.setenv("LOCAL_RANK", "2")
    with pytest.raises(DiffxError, match="torch sees 2; start so many"):
        pick_device("auto")


def test_what_does_not_fit_into_memory_is_refused(nothing_starts: None, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = compose_config(small("trainer.devices=4"))
    model = look(settings).sketch
    activations = settings.batch_size // 4 * least_bytes_of_an_image(model)
    needed = 4 * (bytes_of_training(model.backbone, {}, 1) + activations)
    monkeypatch.setattr(ready, "memory_of", lambda device: needed - 1)
    with pytest.raises(DiffxError, match=r"images at once keep at least .* smaller batch_size="):
        launch(settings)
    monkeypatch.setattr(ready, "memory_of", lambda device: needed - 4 * activations - 1)
    with pytest.raises(DiffxError, match=r"GiB in each of 4 processes"):
        launch(settings)
    monkeypatch.setattr(ready, "memory_of", lambda device: needed)
    look(settings)


def test_a_step_keeps_more_than_the_least_that_is_reckoned_with() -> None:
    """Held against what the backward pass of a tiny network keeps, in float32 and with all that blocks keep inside."""
    sketch, kept = look(compose_config(small())).sketch, []
    backbone = build_model(compose_config(small())).backbone

    def count(tensor: torch.Tensor) -> torch.Tensor:
        kept.append(tensor.numel() * tensor.element_size())
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(count, lambda tensor: tensor):
        backbone(torch.randn(2, *backbone.shape), torch.rand(2), torch.zeros(2, dtype=torch.long))
    assert 0 < 2 * least_bytes_of_an_image(sketch) < sum(kept) / 4


def test_a_batch_that_no_machine_holds_is_refused(nothing_starts: None) -> None:
    with pytest.raises(DiffxError, match=r"16,777,215 images at once"):
        launch(compose_config(small("batch_size=16777215")))


def test_weights_gradients_adamw_and_an_average_are_twenty_bytes_a_parameter() -> None:
    backbone = torch.nn.Linear(9, 1)
    assert bytes_of_training(backbone, {}, averages=1) == 20 * 10
    assert bytes_of_training(backbone, {"a": torch.nn.Linear(1, 1)}, averages=1) == 20 * 10 + 16 * 2


def diffx(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "diffx", *SMALL, *arguments]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)


def test_an_error_of_all_ranks_is_said_once_and_by_itself(tmp_path: Path) -> None:
    ended = diffx(tmp_path, "trainer.devices=2", "batch_size=15")
    assert ended.returncode == 2
    assert ended.stderr.count("batch_size=15") == 1, ended.stderr
    assert ended.stderr.startswith("diffx: ")
    assert ended.stderr.count("\n") == 1


def test_the_first_failing_ranks_own_sentence_comes_up() -> None:
    code = "import os, sys, time; time.sleep(3 * (os.environ['RANK'] == '0'))\nsys.exit('diffx: the disk is full')"
    ended = run_ranks([sys.executable, "-c", code], devices=2)
    assert ended.explain("the run") == "the disk is full"


def test_a_killed_rank_is_explained() -> None:
    code = "import os, time; os.kill(os.getpid(), 9) if os.environ['RANK'] == '1' else time.sleep(60)"
    ended = run_ranks([sys.executable, "-c", code], devices=2)
    assert ended.explain("the run") == ("A process of the run failed (exit code -9): killed, as when memory runs out.")


def test_a_traceback_is_passed_on_and_its_last_line_named(capfd: pytest.CaptureFixture[str]) -> None:
    ended = run_ranks([sys.executable, "-c", "raise RuntimeError('out of luck')"], devices=1)
    assert ended.explain("it").endswith("(exit code 1): RuntimeError: out of luck.")
    assert "Traceback" in capfd.readouterr().err


def wait_for(condition: Any, what: str) -> None:
    for _ in range(1200):
        if condition():
            return
        time.sleep(0.1)
    pytest.fail(what)


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().split()[2] != "Z"
    except OSError:
        return False


def below(pid: int) -> list[int]:
    """All that a process and its threads have started, and what those have."""
    files = Path(f"/proc/{pid}/task").glob("*/children")
    found = [int(child) for file in files for child in file.read_text().split()]
    return [*found, *(one for child in found for one in below(child))]


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the kernel's signal to orphans is Linux's")
@pytest.mark.parametrize("more", [["-m", "seed=0,1", "sweep_jobs=1"], ["trainer.devices=2"]], ids=["sweep", "ranks"])
def test_children_save_and_end_when_their_parent_is_killed(more: list[str], tmp_path: Path) -> None:
    """A sweep's run ended unsaved and was called failed; ranks trained on with nobody."""
    with training(tmp_path, *more) as process:
        orphans = below(process.pid)
        assert orphans
        os.kill(process.pid, signal.SIGKILL)
        wait_for(lambda: not any(map(alive, orphans)), "orphans train on")
    (path,) = tmp_path.glob("runs/digits/*/s0/checkpoints/last.ckpt")
    assert torch.load(path, weights_only=True)["global_step"] >= 4
    assert '"status": "interrupted"' in path.parents[1].joinpath("run.json").read_text()


def test_a_process_that_nobody_started_has_no_parent_to_end_with(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(processes.PARENT, raising=False)
    processes.end_with_parent()
    assert not processes.is_orphan()


def test_another_process_that_trained_meanwhile_is_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The checkpoint to go on from is looked for before the folder is held."""
    from diffx.run.folder import RunDir
    from diffx.train import loop

    monkeypatch.chdir(tmp_path)
    settings = compose_config(small("max_steps=2"))
    prepare = loop._prepare

    def slow(*given: Any) -> Any:
        fit = prepare(*given)
        run = RunDir.of(settings)
        run.last_checkpoint.parent.mkdir(parents=True)
        run.last_checkpoint.write_bytes(b"of the other process")
        return fit

    monkeypatch.setattr(loop, "_prepare", slow)
    with pytest.raises(DiffxError, match=r"has trained .* meanwhile; type the same command again"):
        loop.train(settings)
    assert RunDir.of(settings).last_checkpoint.read_bytes() == b"of the other process"
