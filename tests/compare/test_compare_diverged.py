"""A run that diverges is a result: drawn up to its break, counted everywhere, never left out."""

import csv
import io
import json
import math
from pathlib import Path

import pytest
from made_runs import falling, line, write_run

from diffx.compare.lines import pool
from diffx.compare.shown.page import collect
from diffx.compare.shown.pictures import figure
from diffx.compare.shown.table import make_tables, write_csv
from diffx.compare.shown.words import write_verdict
from diffx.compare.study import make_study
from diffx.curves.read import read

METRIC = "fd_embedded_sup_1k"


def edit(folder: Path, **facts: object) -> None:
    file = folder / "run.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **facts}))


def three(root: Path, broken: str = "repa", **facts: object) -> None:
    """Two methods of three seeds; seed 1 of one of them broke at step 250, as training records it."""
    for label, start in (("plain", 100.0), ("repa", 50.0)):
        for seed in range(3):
            folder = write_run(root, label, seed, {METRIC: falling(start + seed, 0.8)})
            if (label, seed) == (broken, 1):
                edit(folder, **(facts or {"status": "diverged", "diverged_at": 250, "reason": "the loss is NaN"}))


def test_a_recorded_divergence_ends_the_curve_at_its_step(root: Path):
    three(root)
    runs, remarks = read([root])
    (lost,) = [run for run in runs if run.diverged]
    assert [point.step for point in lost.points] == [100, 200]
    assert remarks == [
        "demo/repa/s1: diverged at step 250: the loss is NaN; its curve ends before, and later targets count as not "
        "reached"
    ]


def test_a_failure_of_old_that_names_values_that_are_not_finite_is_a_divergence(root: Path):
    three(root, status="failed", reason="RuntimeError: loss is not finite (nan) at step 412")
    assert sum(run.diverged for run in read([root])[0]) == 1


def test_a_failure_without_such_a_reason_is_still_left_out(root: Path):
    three(root, status="failed", reason="out of memory")
    assert len(read([root])[0]) == 5


def test_words_tables_and_page_say_how_many_seeds_diverged(root: Path):
    three(root)
    found = make_study([root])
    assert "1 of 3 seeds of repa diverged" in write_verdict(found)
    tables = {table.title: table for table in make_tables(found)}
    assert tables["FD embedded sup (1k samples)"].rows[1][1] == "3 (1 of 3 diverged)"
    assert "repa (1 of 3 diverged)" in tables["Time to target: FD embedded sup (1k samples)"].rows[1][0]
    page = collect(found, [], {}, [])
    assert "1 of 3 seeds of repa diverged" in page["verdict"]
    assert "1 of 3 seeds diverged" in page["methods"][1]["settings"]


def test_targets_after_the_break_count_as_not_reached_and_open_the_interval(root: Path):
    three(root)
    rows = [row for row in csv.DictReader(io.StringIO(write_csv(make_study([root])))) if row["method"] == "repa"]
    assert {row["diverged_seeds"] for row in rows} == {"1"}
    (goal,) = [row for row in rows if float(row["target"]) == pytest.approx(102 * 8**-0.8)]
    assert (goal["speedup_bound"], float(goal["speedup_low"])) == ("=", 0.0)


def test_a_seed_that_diverged_counts_as_the_worst_of_all_in_the_permutation(root: Path):
    """Two seeds of repa are below all of plain; with the lost one no order of six seeds is perfect."""
    three(root)
    assert make_study([root]).results[0].outcomes["repa"].chance > 0.1  # type: ignore[operator]


def test_a_seed_that_diverged_is_marked_where_its_curve_ends(root: Path):
    three(root)
    axis = figure.draw(make_study([root]), "").axes[0]
    (cross,) = [drawn for drawn in axis.lines if drawn.get_marker() == "x"]
    assert list(cross.get_xdata()) == [2.0]


def test_a_seed_that_diverged_early_does_not_cut_the_line_of_the_others(root: Path):
    three(root)
    sound = make_study([root]).points.curves("repa", METRIC, sound=True)
    assert sorted(sound) == [0, 2]
    assert pool(list(sound.values())).x[-1] == 8.0


def test_a_seed_that_broke_before_its_first_evaluation_is_counted(root: Path):
    three(root, status="diverged", diverged_at=40, reason="the loss is NaN")
    found = make_study([root])
    assert "1 of 3 seeds of repa diverged" in write_verdict(found)
    assert found.results[0].outcomes["repa"].equal.count == 2  # type: ignore[union-attr]


def test_a_method_all_of_whose_seeds_broke_before_an_evaluation_stands_in_every_table(root: Path):
    for seed in range(2):
        write_run(root, "plain", seed)
        edit(write_run(root, "repa", seed), status="diverged", diverged_at=40, reason="the loss is NaN")
    found = make_study([root])
    assert "2 of 2 seeds of repa diverged" in write_verdict(found)
    assert all(any(row[0].startswith("repa") for row in table.rows) for table in make_tables(found))
    assert len(figure.draw(found, "").axes) == 2


@pytest.mark.parametrize("value", ["NaN", "Infinity", "null"])
def test_a_value_that_is_not_finite_ends_a_curve_without_a_record(root: Path, value: str):
    folder = write_run(root, curves={"fd_x_1k": falling(9, 0.1)}, costs=(1.0, 2.0, 3.0))
    lines = (folder / "curve.jsonl").read_text().splitlines()
    lines[1] = line(200, 2.0, {"fd_x_1k": "@"}).strip().replace('"@"', value)
    (folder / "curve.jsonl").write_text("\n".join(lines) + "\n")
    runs, remarks = read([root])
    assert (runs[0].diverged, [point.step for point in runs[0].points]) == (True, [100])
    assert "diverged: NaN at step 200" in remarks[0]


def test_another_value_that_is_not_finite_is_dropped_alone(root: Path):
    folder = write_run(root, curves={"fd_x_1k": falling(9, 0.1)}, costs=(1.0,))
    (folder / "curve.jsonl").write_text(line(100, 1.0, {"fd_x_1k": 3.0, "nearest_train": math.nan}))
    (run,) = read([root])[0]
    assert (run.diverged, run.points[0].values) == (False, {"fd_x_1k": 3.0})
