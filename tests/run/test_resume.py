"""A run that was interrupted and goes on is the run that was not, bit for bit."""

import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from diffx.errors import DiffxError
from diffx.run.folder import RunDir
from tests import forks
from tests.run.conftest import OFTEN, small, training

Run = Callable[..., RunDir]


def weights(run: RunDir) -> dict[str, torch.Tensor]:
    return torch.load(run.last_checkpoint, weights_only=True)["state_dict"]


def assert_same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> None:
    assert a.keys() == b.keys()
    for key, value in a.items():
        assert torch.equal(value, b[key]), key


@pytest.mark.parametrize("plugins", [(), ("repa", "tread"), ("mdt",)])
def test_a_resumed_run_equals_the_uninterrupted_one_bit_for_bit(run: Run, plugins: tuple[str, ...]) -> None:
    whole = weights(run("runs_dir=whole", plugins=plugins))
    run("runs_dir=parts", "max_steps=3", plugins=plugins)
    parts = run("runs_dir=parts", plugins=plugins)
    assert_same(whole, weights(parts))


def test_training_moves_the_weights_that_resuming_restores(run: Run) -> None:
    """Without this the test above could compare two runs that never trained."""
    early = weights(run("runs_dir=parts", "max_steps=3"))
    late = weights(run("runs_dir=parts"))
    assert not torch.equal(early["backbone.blocks.0.mlp.fc1.weight"], late["backbone.blocks.0.mlp.fc1.weight"])


def test_evaluations_do_not_change_the_training(run: Run) -> None:
    without = weights(run("runs_dir=without"))
    often = run("runs_dir=often", "eval.first=1", "eval.per_doubling=2")
    assert len(often.curve.read_text().splitlines()) > 3
    assert_same(without, weights(often))


def test_the_cost_goes_on_from_where_it_was(run: Run) -> None:
    first = run("max_steps=4")
    before = json.loads(first.curve.read_text().splitlines()[-1])
    after = json.loads(run("max_steps=8").curve.read_text().splitlines()[-1])
    assert after["cpu_hours"] > before["cpu_hours"] > 0
    assert after["images"] == 2 * before["images"]
    assert after["train_flops"] == 2 * before["train_flops"]


def test_points_after_the_checkpoint_and_a_torn_line_are_made_again(run: Run) -> None:
    directory = run("max_steps=4")
    with directory.curve.open("a") as file:
        file.write('{"step": 6, "images": 96, "cpu_hours": 9, "values": {}}\n{"step": 7, "ima')
    run("max_steps=8")
    assert [json.loads(line)["step"] for line in directory.curve.read_text().splitlines()] == [4, 8]


def test_a_complete_run_is_not_trained_again(run: Run) -> None:
    directory = run()
    before = directory.last_checkpoint.stat().st_mtime_ns
    run()
    assert directory.last_checkpoint.stat().st_mtime_ns == before


def test_a_checkpoint_of_another_backbone_is_refused_with_the_first_difference(run: Run) -> None:
    path = run("max_steps=2").last_checkpoint.absolute()
    with pytest.raises(DiffxError, match=r"backbone\.blocks\.0.*32.* in the file, .*64"):
        run("backbone.hidden_size=64", f"resume={path}", "runs_dir=other")
    assert not Path("other").exists()


def test_a_checkpoint_of_another_plugin_set_is_refused_with_both_sets(run: Run) -> None:
    path = run("max_steps=2", plugins=("tread",)).last_checkpoint.absolute()
    with pytest.raises(DiffxError, match=r"plugins \[tread\].*this run has \[\]"):
        run(f"resume={path}", "runs_dir=other")


def test_a_checkpoint_of_another_optimizer_is_refused(run: Run) -> None:
    path = run("max_steps=2").last_checkpoint.absolute()
    with pytest.raises(DiffxError, match="another optimizer than Adan"):
        run("optimizer=adan", f"resume={path}", "runs_dir=other")


def test_a_run_killed_after_its_last_step_is_only_evaluated(run: Run) -> None:
    """The clock must not count the time before training, nor the evaluation."""
    directory = run()
    before = json.loads(directory.curve.read_text().splitlines()[-1])
    directory.curve.unlink()
    directory.write_record(finished_with=None, status="running")
    run()
    (after,) = [json.loads(line) for line in directory.curve.read_text().splitlines()]
    assert after["step"] == before["step"]
    assert after["values"] == before["values"]
    assert after["cpu_hours"] == pytest.approx(before["cpu_hours"], rel=0.05)
    assert directory.read_record()["status"] == "complete"


def test_the_last_point_is_looked_for_up_to_the_checkpoint(run: Run) -> None:
    directory = run("max_steps=4")
    with directory.curve.open("a") as file:
        file.write('{"step": 6, "values": {}}\n{"step": 7, "va')
    assert directory.last_point(4) == 4
    assert directory.last_point(6) == 6
    assert directory.last_point(3) == -1


def test_settings_of_the_optimizer_are_those_that_were_typed_last(run: Run) -> None:
    first = run("max_steps=2").last_checkpoint.absolute()
    second = run(f"resume={first}", "runs_dir=slower", "optimizer.lr=1e-5", "max_steps=4")
    (state,) = torch.load(second.last_checkpoint, weights_only=True)["optimizer_states"]
    assert [group["lr"] for group in state["param_groups"]] == [1e-5]
    assert float(state["state"][0]["step"]) == 4


@pytest.mark.parametrize("resume", ["never", "file"])
def test_another_turn_of_a_slurm_job_goes_on_whatever_its_first_was_to_do(
    run: Run, monkeypatch: pytest.MonkeyPatch, resume: str
) -> None:
    file = run("max_steps=2", "runs_dir=elsewhere").last_checkpoint.absolute()
    chosen = f"resume={file if resume == 'file' else 'never'}"
    first = run(chosen, "max_steps=4")
    monkeypatch.setenv("SLURM_RESTART_COUNT", "1")
    run(chosen, "max_steps=6")
    assert [json.loads(line)["step"] for line in first.curve.read_text().splitlines()][-2:] == [4, 6]


def test_starting_anew_forgets_the_earlier_run_at_once(run: Run) -> None:
    directory = run()
    old = weights(directory)
    again = run("resume=never", "max_steps=3")
    assert [json.loads(line)["step"] for line in again.curve.read_text().splitlines()] == [3]
    assert torch.load(again.last_checkpoint, weights_only=True)["global_step"] == 3
    assert_same(old, weights(run()))


def test_a_file_to_go_on_from_does_not_overwrite_a_run_that_is_further(run: Run) -> None:
    early = run("max_steps=2", "runs_dir=early").last_checkpoint.absolute()
    late = run()
    with pytest.raises(DiffxError, match="has a checkpoint of its own"):
        run(f"resume={early}", "max_steps=3")
    assert torch.load(late.last_checkpoint, weights_only=True)["global_step"] == 8


def test_weights_that_are_no_numbers_are_never_saved(run: Run) -> None:
    with pytest.raises(DiffxError, match="is not finite"):
        run("optimizer.lr=1e30", "trainer.gradient_clip_val=null", "log_every=1000", "max_skipped_steps=4")
    assert not list(Path().glob("runs/digits/*/s0/checkpoints/last.ckpt"))


def test_two_processes_do_not_train_one_run(run: Run) -> None:
    directory = run("max_steps=2")
    with directory.held(), pytest.raises(DiffxError, match="Another process is training"):
        run("max_steps=4")


def test_a_damaged_checkpoint_is_refused_and_kept(run: Run) -> None:
    path = run("max_steps=2").last_checkpoint
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(DiffxError, match="resume=never"):
        run("max_steps=4")
    assert path.stat().st_size == 1000


def flip_a_bit(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def cut_short(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


@pytest.mark.parametrize("damage", [flip_a_bit, cut_short, Path.unlink])
def test_a_damaged_last_checkpoint_falls_back_to_the_one_before(
    run: Run, damage: Callable[[Path], None], capsys: pytest.CaptureFixture[str]
) -> None:
    whole = weights(run("runs_dir=whole"))
    parts = run("max_steps=4", *OFTEN)
    assert torch.load(parts.previous_checkpoint, weights_only=True)["global_step"] == 4
    first = parts.previous_checkpoint.read_bytes()
    damage(parts.last_checkpoint)
    run()
    text = " ".join(capsys.readouterr().out.split())
    assert "is damaged or missing; this is the one before it" in text
    assert "going on from step 4" in text
    assert_same(whole, weights(parts))
    assert parts.previous_checkpoint.read_bytes() == first  # the damaged one has not taken its place


def test_two_checkpoints_are_kept_and_the_last_is_the_later(run: Run) -> None:
    directory = run("max_steps=2")
    run("max_steps=4")
    files = (directory.previous_checkpoint, directory.last_checkpoint)
    assert [torch.load(file, weights_only=True)["global_step"] for file in files] == [2, 4]


def test_every_average_has_its_file(run: Run) -> None:
    directory = run("more_ema_decays=[0.5,0.9]")
    files = [directory.ema_weights, directory.more_ema_weights(0.5), directory.more_ema_weights(0.9)]
    heads = [load_file(file)["final_layer.linear.weight"].abs().max() for file in files]
    assert heads[0] < heads[2] < heads[1]  # 0.99, 0.9 and 0.5: the head starts at zero, and the fast ones follow it


@pytest.mark.parametrize("after", [3, 11])
def test_a_run_that_was_killed_goes_on_to_the_same_bits(run: Run, tmp_path: Path, after: int) -> None:
    chosen = [
        "max_steps=100",
        *OFTEN,
        "log_every=1",
        "eval.first=1",
        "runs_dir=killed",
    ]
    command = [sys.executable, "-u", "-m", "diffx", *small(*chosen, plugins=("tread",)), "trainer.threads=1"]
    with forks.Popen(command, cwd=tmp_path, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        for line in process.stdout:
            if "step 1 " in line:
                break
        path = next(tmp_path.glob("killed/digits/*/s0/checkpoints"))
        while process.poll() is None and _last_step(path) < after:
            time.sleep(0.01)
        process.kill()
    killed_at = _last_step(path)
    assert after <= killed_at < 100
    settings = ("trainer.threads=1", *chosen)
    killed = run(*settings, plugins=("tread",))
    whole = run(*settings[:-1], "runs_dir=whole", plugins=("tread",))
    assert_same(weights(whole), weights(killed))
    points = [[json.loads(line) for line in r.curve.read_text().splitlines()] for r in (whole, killed)]
    assert [(p["step"], p["values"]) for p in points[0]] == [(p["step"], p["values"]) for p in points[1]]


def _last_step(checkpoints: Path) -> int:
    """Of the newest checkpoint, which another process is writing."""
    try:
        return int(torch.load(checkpoints / "last.ckpt", weights_only=True)["global_step"])
    except FileNotFoundError:
        return -1


def test_a_full_disk_ends_the_run_with_the_last_good_checkpoint_intact(tmp_path: Path) -> None:
    """A limit on the size of files stands in for the disk: the system refuses the write in the same way."""
    chosen = small("max_steps=2", "runs_dir=full")
    assert forks.run([sys.executable, "-m", "diffx", *chosen], cwd=tmp_path).returncode == 0
    (path,) = tmp_path.glob("full/digits/*/s0/checkpoints/last.ckpt")
    before = path.read_bytes()
    limited = (
        "import resource, runpy, signal, sys\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        f"resource.setrlimit(resource.RLIMIT_FSIZE, ({len(before) // 2},) * 2)\n"
        "runpy.run_module('diffx', run_name='__main__')"
    )
    command = [sys.executable, "-c", limited, *small("max_steps=4", "runs_dir=full")]
    result = forks.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert result.returncode == 2, result.stderr
    assert "cannot be written" in result.stderr
    assert "Free some space" in result.stderr
    assert path.read_bytes() == before
    assert sorted(file.name for file in path.parent.iterdir()) == ["ema.safetensors", "last.ckpt"]


def test_a_plain_backbone_loads_the_ema_weights_strictly(run: Run) -> None:
    from diffx.assemble.model import build_model
    from diffx.config.compose import compose_config

    directory = run(plugins=("repa", "tread"))
    plain = build_model(compose_config(small())).backbone
    plain.load_state_dict(load_file(directory.ema_weights), strict=True)


def test_ctrl_c_saves_and_says_how_to_go_on(tmp_path: Path) -> None:
    with training(tmp_path) as process:
        time.sleep(0.2)
        process.send_signal(signal.SIGINT)
        _, message = process.communicate(timeout=600)
    assert process.returncode == 3
    assert "type the same command again to go on" in message
    (directory,) = tmp_path.glob("runs/digits/*/s0")
    assert json.loads((directory / "run.json").read_text())["status"] == "interrupted"
    assert torch.load(directory / "checkpoints/last.ckpt", weights_only=True)["global_step"] >= 4
