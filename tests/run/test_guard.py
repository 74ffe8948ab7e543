"""A step without a finite gradient changes nothing, is counted, and too many of them end the run with a diagnosis."""

import os
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from diffx import ranks
from diffx.errors import DiffxError
from diffx.plugin import Aux, Batch, Plugin
from diffx.run.folder import RunDir
from diffx.tokens import Tokens
from diffx.train.guard import Guard
from tests import forks
from tests.run.conftest import OFTEN, small

Run = Callable[..., RunDir]
POISON = ["+plugins.poison._target_=tests.run.test_guard.Poison"]


class Poison(Plugin):
    """A loss that is not a number for `count` steps from step `start` on, on one rank or on all."""

    reads = (1,)

    def __init__(self, start: int = 3, count: int = 1, rank: int | None = None) -> None:
        super().__init__(weight=self._weight_at)
        self.poisons_here = rank is None or rank == ranks.rank()
        self.first, self.count, self.step = start, count, 0
        self.scale = nn.Parameter(torch.ones(()))

    def _weight_at(self, step: int) -> float:
        self.step = step
        return 1.0

    def prepare(self, batch: Batch, rng: torch.Generator) -> Aux:
        bad = self.poisons_here and self.first <= self.step < self.first + self.count
        return {"factor": torch.tensor(float("nan") if bad else 0.0)}

    def loss(self, seen: dict[int, Tokens], out: Tensor, aux: Aux) -> Tensor:
        return aux["factor"] * self.scale * seen[1].x.mean()


def weights(run: RunDir) -> dict[str, Tensor]:
    state = torch.load(run.last_checkpoint, weights_only=True)["state_dict"]
    return {key: value for key, value in state.items() if key.startswith("backbone.")}


@pytest.mark.parametrize("optimizer", ["adamw", "adan"])
def test_a_step_without_a_finite_gradient_changes_no_weight_and_is_counted(run: Run, optimizer: str) -> None:
    chosen = [f"optimizer={optimizer}", *POISON, "optimizer.weight_decay=0.1"]
    before = weights(run(*chosen, "runs_dir=before", "max_steps=3"))
    after = run(*chosen, "runs_dir=after", "max_steps=4")
    assert all(torch.equal(before[key], value) for key, value in weights(after).items())
    assert after.read_record()["skipped_steps"] == 1


def test_training_goes_on_after_a_skipped_step_and_the_count_survives_a_resume(run: Run) -> None:
    at = weights(run(*POISON, "max_steps=4"))
    on = run(*POISON, "max_steps=8")
    assert on.read_record()["skipped_steps"] == 1
    moved = weights(on)
    assert any(not torch.equal(at[key], moved[key]) for key in at)
    assert all(value.isfinite().all() for value in moved.values())


def test_a_skipped_step_leaves_the_optimizers_memory_alone(run: Run) -> None:
    def memory(steps: int) -> dict[str, Tensor]:
        directory = run(*POISON, f"runs_dir=r{steps}", f"max_steps={steps}")
        (state,) = torch.load(directory.last_checkpoint, weights_only=True)["optimizer_states"]
        return state["state"][0]

    before, after = memory(3), memory(4)
    assert before.keys() == after.keys()
    assert all(torch.equal(before[key], after[key]) for key in before)


def test_too_many_in_a_row_end_the_run_and_name_the_loss_and_the_parameters(run: Run) -> None:
    with pytest.raises(DiffxError, match=r"last 4 steps up to step 8 .* loss poison is not .* plugins\.poison \(1 ten"):
        run(*POISON, "+plugins.poison.count=100", "+plugins.poison.start=4", "max_skipped_steps=4", "max_steps=40")


def test_the_diagnosis_names_a_loss_that_broke_on_another_rank(tmp_path: Path) -> None:
    poison = [*POISON, "+plugins.poison.rank=1", "+plugins.poison.count=100", "max_skipped_steps=3", "max_steps=40"]
    command = [sys.executable, "-m", "diffx", *small(*poison), "trainer.devices=2"]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(Path(__file__).parents[2]), *sys.path])}
    result = forks.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert result.returncode == 2
    assert "the loss poison is not finite" in result.stderr
    assert "losses are finite" not in result.stderr


def test_the_last_checkpoint_stays_when_a_run_diverges(run: Run) -> None:
    chosen = [*POISON, "+plugins.poison.start=4", "+plugins.poison.count=100", "max_skipped_steps=3", "log_every=1"]
    good = weights(run(*chosen, "max_steps=4"))
    with pytest.raises(DiffxError, match="The last checkpoint is kept"):
        run(*chosen, "max_steps=20", *OFTEN)
    (path,) = Path().glob("runs/digits/*/s0")
    assert all(torch.equal(good[key], value) for key, value in weights(RunDir(path)).items())
    assert torch.load(RunDir(path).last_checkpoint, weights_only=True)["global_step"] == 4
    record = RunDir(path).read_record()
    assert (record["status"], record["diverged_at"]) == ("diverged", 7)
    assert "the loss poison is not finite" in record["reason"]


def test_the_guard_counts_in_all_and_in_a_row() -> None:
    guard, terms = Guard(limit=3), {"denoise": torch.tensor(1.0)}
    for norm in (1.0, float("nan"), float("inf"), 1.0, float("nan")):
        bad = guard.see(["w"], torch.tensor([norm]), terms)
        assert bool(bad) == (norm != 1.0)
    assert int(guard.skipped) == 3
    assert int(guard.row) == 1
    guard.check(5)


def test_finite_losses_with_broken_gradients_are_told_apart() -> None:
    guard = Guard(limit=1)
    guard.see(["backbone.a", "plugins.repa.b"], torch.tensor([1.0, float("inf")]), {"total": torch.tensor(1.0)})
    with pytest.raises(DiffxError, match=r"losses are finite.*plugins\.repa \(1 tensors, first b\)"):
        guard.check(7)
