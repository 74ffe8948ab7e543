"""A run that breaks is a result: its record says when and why, the exit code is not zero, and a sweep goes on."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from diffx.errors import Diverged
from diffx.evaluation.evaluation import Evaluation
from diffx.run.folder import RunDir
from tests.run.conftest import SMALL

BREAKING = ["optimizer.lr=1e30", "trainer.gradient_clip_val=null", "max_steps=40"]


def test_the_record_of_a_run_whose_steps_break_says_when_and_why(run: Callable[..., RunDir]) -> None:
    with pytest.raises(Diverged):
        run(*BREAKING, "max_skipped_steps=3")
    (path,) = Path().glob("runs/digits/*/s0")
    record = RunDir(path).read_record()
    assert record["status"] == "diverged"
    assert 3 <= record["diverged_at"] <= 8
    assert "the loss denoise is not finite" in record["reason"]


@pytest.mark.parametrize("broken", ["samples", "a measure"])
def test_samples_or_measures_that_break_are_a_divergence(
    broken: str, run: Callable[..., RunDir], monkeypatch: pytest.MonkeyPatch
) -> None:
    make = Evaluation.__init__

    def init(self: Evaluation, *given: object) -> None:
        make(self, *given)  # type: ignore[arg-type]
        if broken == "samples":
            batches = self.sampling.batches
            self.sampling.batches = lambda *a: (x * float("nan") for x in batches(*a))  # type: ignore[method-assign]
        else:
            metrics = self.parts.metrics
            parts = dict(self.parts.__dict__) | {"metrics": Half(metrics)}
            self.parts = type(self.parts)(**parts)

    monkeypatch.setattr(Evaluation, "__init__", init)
    with pytest.raises(Diverged, match=r"After step 2 (100 samples hold NaN|fd_embedded_sup_100 is nan)"):
        run("max_steps=2")
    (path,) = Path().glob("runs/digits/*/s0")
    assert (RunDir(path).read_record()["status"], RunDir(path).read_record()["diverged_at"]) == ("diverged", 2)


class Half:
    """Metrics of which the first is not a number."""

    def __init__(self, metrics: object) -> None:
        self.inner = metrics
        self.metrics = metrics.metrics  # type: ignore[attr-defined]

    def __call__(self, batches: object) -> dict[str, float]:
        values = self.inner(batches)  # type: ignore[operator]
        return values | {next(iter(values)): float("nan")}


def test_going_on_forgets_the_break(run: Callable[..., RunDir], monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> None:
        raise Diverged("It broke.", 2)

    with monkeypatch.context() as patched:
        patched.setattr(Evaluation, "__call__", broken)
        with pytest.raises(Diverged):
            run("max_steps=2")
    record = run("max_steps=2").read_record()
    assert record["status"] == "complete"
    assert not {"diverged_at", "reason"} & record.keys()


def test_a_sweep_goes_on_and_compares_what_broke(tmp_path: Path) -> None:
    sweep = ["-m", "optimizer.lr=1e30,1e-3", "trainer.gradient_clip_val=null", "max_steps=20", "eval.first=1"]
    command = [sys.executable, "-m", "diffx", *SMALL, *sweep, "max_skipped_steps=3"]
    ended = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert ended.returncode == 2
    records = [json.loads(file.read_text())["status"] for file in tmp_path.glob("runs/digits/*/s0/run.json")]
    assert sorted(records) == ["complete", "diverged"]
    assert "1 of 2 runs failed" in ended.stderr
    assert (tmp_path / "runs/digits/compare/compare.md").exists()


def test_a_distance_that_is_not_finite_names_whose_fault_it_is() -> None:
    from diffx.errors import DiffxError
    from diffx.metrics.frechet import Gaussian, frechet_distance

    good, bad = Gaussian(torch.zeros(2), torch.eye(2)), Gaussian(torch.tensor([0.0, float("nan")]), torch.eye(2))
    with pytest.raises(DiffxError, match="moments of the samples"):
        frechet_distance(bad, good)
    with pytest.raises(DiffxError, match="moments of the reference"):
        frechet_distance(good, bad)
    huge = Gaussian(torch.full((2,), 1e200, dtype=torch.float64), torch.eye(2, dtype=torch.float64))
    with pytest.raises(DiffxError, match="is inf"):
        frechet_distance(huge, good)
