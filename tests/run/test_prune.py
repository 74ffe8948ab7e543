"""A run that stands far behind another of its study is broken off, and says why."""

import json
import math
from pathlib import Path

import pytest

from diffx.commands.train import read_result
from diffx.config.compose import compose_config
from diffx.curves.curve import read_value
from diffx.curves.prune import Pruning, read_curve
from diffx.errors import DiffxError
from diffx.power.stop import run_in_rounds
from diffx.run.folder import RunDir
from diffx.train.loop import train
from tests.run.conftest import small

LIMIT = math.exp(3 * math.sqrt(2) * 0.1)


def curve(folder: Path, values: list[float], protocol: str = "p", hours: float = 1.0) -> RunDir:
    """A run whose distance has these values after 1, 2, 4, ... steps of so many hours."""
    folder.mkdir(parents=True)
    points = [{"step": 2**k, "cpu_hours": hours * 2**k, "values": {"nearest": 0.1, "fd": value}, "protocol": protocol}
              for k, value in enumerate(values)]  # fmt: skip
    (folder / "curve.jsonl").write_text("".join(json.dumps(point) + "\n" for point in points))
    return RunDir(folder)


def reason(run: RunDir, spread: float | None = 0.1, metric: str | None = None) -> str | None:
    pruning = Pruning(run, spread, metric, "cpu_hours")
    pruning.look()
    return pruning.reason


@pytest.mark.parametrize(("factor", "pruned"), [(0.99 * LIMIT, False), (1.01 * LIMIT, True), (0.5, False)])
def test_a_run_is_broken_off_beyond_three_spreads_of_two_seeds(tmp_path: Path, factor: float, pruned: bool) -> None:
    curve(tmp_path / "a" / "s0", [9.0, 4.0, 2.0, 1.0])
    assert bool(reason(curve(tmp_path / "b" / "s0", [9.0, 4.0, 2.0 * factor]))) == pruned


def test_the_best_run_at_that_cost_is_the_one_to_be_held_against(tmp_path: Path) -> None:
    curve(tmp_path / "a" / "s0", [9.0, 4.0, 2.0])
    curve(tmp_path / "b" / "s0", [9.0, 3.0, 1.0])
    said = reason(curve(tmp_path / "c" / "s0", [9.0, 4.0, 2.0]))
    assert said is not None
    assert f"fd is 2 after 4 steps, where {tmp_path / 'b'}" in said


def test_runs_are_compared_at_equal_cost_and_not_at_equal_steps(tmp_path: Path) -> None:
    curve(tmp_path / "a" / "s0", [8.0, 4.0, 2.0, 1.0], hours=2.0)
    assert reason(curve(tmp_path / "b" / "s0", [16.0, 8.0, 4.0])) is None


@pytest.mark.parametrize(
    ("values", "where", "protocol"),
    [([9.0, 90.0], "b/s0", "p"), ([9.0, 9.0, 90.0], "b/s1", "p"), ([9.0, 9.0, 90.0], "b/s0", "q")],
    ids=["two evaluations", "another seed", "another protocol"],
)
def test_what_cannot_be_compared_breaks_nothing_off(
    tmp_path: Path, values: list[float], where: str, protocol: str
) -> None:
    curve(tmp_path / "a" / "s0", [9.0, 4.0, 2.0, 1.0])
    assert reason(curve(tmp_path / where, values, protocol)) is None


def test_nothing_is_broken_off_unless_asked_for(tmp_path: Path) -> None:
    curve(tmp_path / "a" / "s0", [9.0, 4.0, 2.0, 1.0])
    assert reason(curve(tmp_path / "b" / "s0", [9.0, 9.0, 90.0]), spread=None) is None


def test_a_curve_that_is_a_power_of_cost_is_read_exactly_between_its_points() -> None:
    points = [{"cpu_hours": x, "values": {"fd": 5 * x**-0.7}} for x in (1.0, 2.0, 8.0)]
    found = read_curve(points, "fd", "cpu_hours")
    between = read_value(found, 5.0)
    assert between is not None
    assert between.value == pytest.approx(5 * 5**-0.7)
    assert read_value(found, 9.0) is None


def test_runs_of_one_budget_that_end_a_step_apart_are_compared_at_their_ends(tmp_path: Path) -> None:
    curve(tmp_path / "a" / "s0", [9.0, 4.0, 2.0])
    assert reason(curve(tmp_path / "b" / "s0", [9.0, 8.0, 8.0], hours=1.01)) is not None
    assert reason(curve(tmp_path / "c" / "s0", [9.0, 8.0, 8.0], hours=1.1)) is None


def test_a_pruned_run_keeps_its_checkpoint_gives_its_value_and_goes_on_without_the_rule(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    base = small(f"runs_dir={tmp_path}", "eval.first=1", "max_steps=12", "log_every=1")
    rule = [*base, "sweep_prune=0.001", "sweep_metric=fd_embedded_sup_100"]
    settings = compose_config(rule)
    run = RunDir.of(settings)
    points = [{"step": k, "cpu_hours": hours, "values": {"fd_embedded_sup_100": 1e-6}}
              for k, hours in ((1, 1e-9), (99, 9.0))]  # fmt: skip
    leader = run.path.parents[1] / "leader" / run.path.name
    leader.mkdir(parents=True)
    train(compose_config([*base, "max_steps=1"]))  # says which protocol it is
    protocol = next(run.points())["protocol"]
    lines = [json.dumps(point | {"protocol": protocol}) + "\n" for point in points]
    (leader / "curve.jsonl").write_text("".join(lines))

    train(settings)
    record, steps = run.read_record(), [point["step"] for point in run.points()]
    assert record["status"] == "pruned"
    assert str(leader) in record["reason"]
    assert max(steps) < 12
    assert run.last_checkpoint.exists()
    assert read_result(settings) == [*run.points()][-1]["values"]["fd_embedded_sup_100"]

    capsys.readouterr()
    train(settings)
    assert "was pruned; type sweep_prune=null" in capsys.readouterr().out.replace("\n", " ")
    train(compose_config(base))
    assert run.read_record()["status"] == "complete"
    assert [*run.points()][-1]["step"] == 12


@pytest.mark.parametrize("last", [4, 5])
def test_a_run_that_falls_behind_at_its_end_is_measured_there_and_complete(
    tmp_path: Path, last: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It falls behind at step 4, an evaluation, and training stops a step later."""
    monkeypatch.setattr(Pruning, "look", lambda pruning: setattr(pruning, "reason", "is behind"))
    settings = compose_config(small(f"runs_dir={tmp_path}", "eval.first=4", f"max_steps={last}", "sweep_prune=0.1"))
    run = train(settings)
    assert run.read_record()["status"] == "complete"
    assert [point["step"] for point in run.points()] == list(range(4, last + 1))


def test_runs_are_not_broken_off_by_a_metric_of_which_more_is_better(tmp_path: Path) -> None:
    settings = compose_config(small(f"runs_dir={tmp_path}", "sweep_prune=0.1", "sweep_metric=align_all"))
    with pytest.raises(DiffxError, match="sweep_metric=align_all is none"):
        train(settings)
    assert not [*tmp_path.iterdir()]


def test_the_rule_for_runs_and_the_rule_for_seeds_are_not_used_together(tmp_path: Path) -> None:
    base = [f"runs_dir={tmp_path}", "sweep_stop=0.05", "sweep_prune=0.1"]
    jobs = {str(seed): compose_config(small(*base, f"seed={seed}")) for seed in range(5)}
    with pytest.raises(DiffxError, match="leave one of the two out"):
        run_in_rounds(jobs, lambda some: [])
