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
from diffx.run import RunDir
from tests.run.conftest import small

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
    directory.write_card(finished_with=None, status="running")
    run()
    (after,) = [json.loads(line) for line in directory.curve.read_text().splitlines()]
    assert after["step"] == before["step"]
    assert after["values"] == before["values"]
    assert after["cpu_hours"] == pytest.approx(before["cpu_hours"], rel=0.05)
    assert directory.read_card()["status"] == "complete"


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
        run("optimizer.lr=1e30", "trainer.gradient_clip_val=null", "log_every=1000")
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


def test_a_plain_backbone_loads_the_ema_weights_strictly(run: Run) -> None:
    from diffx.build import build_model
    from diffx.compose import compose_config

    directory = run(plugins=("repa", "tread"))
    plain = build_model(compose_config(small())).backbone
    plain.load_state_dict(load_file(directory.ema_weights), strict=True)


def test_ctrl_c_saves_and_says_how_to_go_on(tmp_path: Path) -> None:
    command = [sys.executable, "-u", "-m", "diffx", *small("max_steps=100000", "log_every=1", "eval.first=1")]
    with subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        for line in process.stdout:
            if line.startswith("step 4"):
                break
        time.sleep(0.2)
        process.send_signal(signal.SIGINT)
        _, message = process.communicate(timeout=120)
    assert process.returncode == 2
    assert "type the same command again to go on" in message
    (directory,) = tmp_path.glob("runs/digits/*/s0")
    assert json.loads((directory / "run.json").read_text())["status"] == "interrupted"
    assert torch.load(directory / "checkpoints/last.ckpt", weights_only=True)["global_step"] >= 4
