"""The planner of studies: seeds for a difference, what pairing gains, and sweeps that stop early at their error."""

import math
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from made_runs import falling, write_run
from scipy.stats import ttest_1samp, ttest_ind

from diffx.compare.study import make_study
from diffx.errors import DiffxError
from diffx.power.__main__ import main
from diffx.power.pilot import read_pilot
from diffx.power.seeds import as_gap, count_seeds, tell
from diffx.power.sequential import FIRST, chance, find_levels, look, walk
from diffx.power.stop import run_in_rounds

METRIC = "fd_embedded_sup_1k"


def write_pair(root: Path, gap: float, shared: float, own: float, seeds: int = 6) -> None:
    """Plain and tread, whose seeds share a deviation and have one of their own, in logarithms."""
    rng = np.random.default_rng(0)
    common = rng.normal(0, shared, seeds)
    for label, lower in (("plain", 0.0), ("tread", gap)):
        for seed in range(seeds):
            value = 10 * math.exp(common[seed] + rng.normal(0, own) - lower)
            write_run(root, label, seed, {METRIC: falling(value, 1.0)})


def test_the_seeds_asked_for_tell_the_difference_as_often_as_was_wanted() -> None:
    seeds = count_seeds(0.09, as_gap(10), 0.05, 0.8)
    rng = np.random.default_rng(0)
    sides = rng.normal(0, 0.09, (2, 4000, seeds))
    told = ttest_ind(sides[0] + as_gap(10), sides[1], axis=1).pvalue <= 0.05
    assert np.mean(told) == pytest.approx(tell(seeds, 0.09, as_gap(10), 0.05), abs=0.02)
    assert tell(seeds - 1, 0.09, as_gap(10), 0.05) < 0.8 <= tell(seeds, 0.09, as_gap(10), 0.05)


def test_two_pairs_are_known_to_tell_little() -> None:
    rng = np.random.default_rng(0)
    seen = walk_pairs(rng.normal(as_gap(20), 0.03, (20_000, 2)))
    assert tell(2, 0.03, as_gap(20), 0.05, correlation=0.5) == pytest.approx(seen, abs=0.02)


def walk_pairs(differences: np.ndarray) -> float:
    """How often the paired t test tells them from zero."""
    return float(np.mean(ttest_1samp(differences, 0.0, axis=1).pvalue <= 0.05))


def test_pairing_saves_seeds_only_where_runs_of_one_seed_correlate() -> None:
    alone = count_seeds(0.09, as_gap(10), 0.05, 0.8)
    assert count_seeds(0.09, as_gap(10), 0.05, 0.8, correlation=0.8) < alone / 2
    assert count_seeds(0.09, as_gap(10), 0.05, 0.8, correlation=0.0) >= alone


def test_a_pilot_reads_spread_and_correlation_from_its_seeds(tmp_path: Path) -> None:
    write_pair(tmp_path, gap=0.2, shared=0.1, own=0.02, seeds=40)
    study = make_study([tmp_path])
    pilot = read_pilot(study, study.results[0], study.results[0].equal_cost)
    assert pilot.spread == pytest.approx(math.hypot(0.1, 0.02), rel=0.2)
    assert pilot.correlation == pytest.approx(0.96, abs=0.02)
    assert pilot.gap("tread") == pytest.approx(0.2, abs=0.02)


def test_a_pilot_whose_seeds_share_half_of_their_variance_has_a_correlation_of_a_half(tmp_path: Path) -> None:
    write_pair(tmp_path, gap=0.2, shared=0.05, own=0.05, seeds=40)
    study = make_study([tmp_path])
    pilot = read_pilot(study, study.results[0], study.results[0].equal_cost)
    assert pilot.correlation == pytest.approx(0.5, abs=0.2)


def test_looking_after_every_seed_keeps_the_error() -> None:
    null = walk(np.random.default_rng(7).standard_normal((20_000, 8)))
    assert np.mean((null <= np.array(find_levels(8, 0.05))).any(axis=1)) == pytest.approx(0.05, abs=0.006)
    assert np.mean((null <= 0.05).any(axis=1)) > 0.09  # what uncorrected looks would do


def test_a_large_difference_is_told_before_all_seeds_were_run() -> None:
    seen = [0.5, 0.52, 0.49, 0.51]
    assert look(seen, seeds=10, error=0.05)
    assert not look(seen[: FIRST - 1], seeds=10, error=0.05)
    assert not look([0.5, -0.4, 0.1, 0.2], seeds=10, error=0.05)


def test_the_levels_of_looks_are_those_of_the_paired_test() -> None:
    seen = [0.31, 0.27, 0.4, 0.22]
    assert chance(seen) == pytest.approx(float(walk(np.array([seen]))[0, -1]))


def sweep(root: Path, seeds: int, *labels: str) -> dict[str, SimpleNamespace]:
    """Jobs as a sweep has them by name, one a label and seed."""
    jobs = [SimpleNamespace(seed=seed, id=label, label=label, plugins={} if label == "plain" else {label: None},
                            runs_dir=str(root), group="demo", experiment="demo", sweep_stop=0.05,
                            sweep_prune=None)
            for label in labels for seed in range(seeds)]  # fmt: skip
    return {f"{job.label} s{job.seed}": job for job in jobs}


def test_a_sweep_leaves_out_the_further_seeds_of_a_method_that_is_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    ran: list[tuple[str, int]] = []

    def run(jobs: dict[str, SimpleNamespace]) -> list[str]:
        for job in jobs.values():
            ran.append((job.label, job.seed))
            lower = {"plain": 1.0, "tread": 0.5, "repa": 1.0 + 0.05 * (-1) ** job.seed}[job.label]
            write_run(tmp_path, job.label, job.seed, {METRIC: falling(lower * (10 + 0.01 * job.seed), 1.0)})
        return []

    assert run_in_rounds(sweep(tmp_path, 6, "plain", "tread", "repa"), run) == []
    assert [seed for label, seed in ran if label == "repa"] == list(range(6))
    assert [seed for label, seed in ran if label == "tread"] == [0, 1, 2]
    assert "tread is told from the baseline after 3 seeds; 3 are not run" in capsys.readouterr().out


def test_a_sweep_typed_again_looks_only_at_the_seeds_that_it_has_come_to_in_their_order(tmp_path: Path) -> None:
    """Seeds 5, 4, ... of which the last are there already: by those tread is told, by the first three it is not."""
    jobs = dict(reversed(sweep(tmp_path, 6, "plain", "tread").items()))
    for job in jobs.values():
        lower = 1.0 if job.label == "plain" else {5: 1.3, 4: 0.9, 3: 0.5}.get(job.seed, 0.5 + 0.001 * job.seed)
        write_run(tmp_path, job.label, job.seed, {METRIC: falling(10 * lower, 1.0)})
    rounds: list[set[int]] = []
    assert run_in_rounds(jobs, lambda some: rounds.append({job.seed for job in some.values()}) or []) == []
    assert rounds == [{5}, {4}, {3}, {2}, {1}, {0}]


def test_a_method_that_lost_a_seed_is_never_told(tmp_path: Path) -> None:
    def run(jobs: dict[str, SimpleNamespace]) -> list[str]:
        for job in jobs.values():
            broke = {"status": "diverged", "diverged_at": 400} if (job.label, job.seed) == ("tread", 1) else {}
            lower = 1.0 if job.label == "plain" else 0.5 + 0.001 * job.seed
            write_run(tmp_path, job.label, job.seed, {METRIC: falling(lower * 10, 1.0)}, facts=broke)
        return []

    ran: list[int] = []
    run_in_rounds(sweep(tmp_path, 5, "plain", "tread"), lambda jobs: ran.append(len(jobs)) or run(jobs))
    assert ran == [2] * 5


def test_a_sweep_too_short_to_stop_is_refused_before_it_starts(tmp_path: Path) -> None:
    with pytest.raises(DiffxError, match="this sweep has 3, so nothing could stop"):
        run_in_rounds(sweep(tmp_path, 3, "plain", "tread"), lambda jobs: pytest.fail("ran"))
    with pytest.raises(DiffxError, match="has 0 without and 2 with some"):
        run_in_rounds(sweep(tmp_path, 6, "repa", "tread"), lambda jobs: pytest.fail("ran"))


def test_the_command_plans_from_pilot_runs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_pair(tmp_path, gap=0.2, shared=0.1, own=0.02)
    assert main([str(tmp_path), "--difference", "10"]) == 0
    said = capsys.readouterr().out
    assert "Spread of seeds" in said
    assert "10 % lower" in said
    assert "More seeds or longer runs" in said


def test_the_hours_of_a_plan_are_those_of_so_many_runs_of_the_length_in_its_title(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Tread ran twice as long as plain, and both are read at 8 hours."""
    for seed, value in enumerate((9.0, 10.0, 11.0)):
        write_run(tmp_path, "plain", seed, {METRIC: falling(value, 1.0)})
        write_run(tmp_path, "tread", seed, {METRIC: falling(8 * value, 1.0)}, (1.0, 2.0, 4.0, 8.0, 16.0))
    assert main([str(tmp_path), "--difference", "20"]) == 0
    (row,) = [line for line in capsys.readouterr().out.splitlines() if line.strip().startswith("20 % lower")]
    seeds, hours = (float(row.split()[place]) for place in (3, -1))
    assert hours == seeds * 2 * 8


@pytest.mark.parametrize("lost", ["plain", "repa"])
def test_a_method_that_broke_before_its_first_evaluation_leaves_the_plan_to_the_others(
    lost: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for label in ("plain", "repa", "tread"):
        for seed in range(3):
            broke = {"status": "diverged", "diverged_at": 5} if label == lost else {}
            folder = write_run(tmp_path, label, seed, {METRIC: falling(10 + seed, 1.0)}, facts=broke)
            if broke:
                (folder / "curve.jsonl").write_text("")
    assert main([str(tmp_path), "--difference", "50"]) == 0
    assert "More seeds or longer runs" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("typed", "said"),
    [
        (["nowhere"], "neither a folder of runs nor a spread"),
        (["5%", "--error", "2"], "--error 2 is no chance"),
        (["5%", "--difference", "100"], "--difference 100 is not a share"),
        (["5%", "--hours", "inf"], "--hours inf buys nothing"),
    ],
)
def test_what_cannot_be_planned_is_one_sentence(
    typed: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(typed) == 2
    message = capsys.readouterr().err
    assert message.startswith("diffx: ")
    assert said in message
