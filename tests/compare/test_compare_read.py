"""Bad runs cost one line each, and never the report."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from made_runs import falling, line, write_run

from diffx.compare.shown.caption import write_caption
from diffx.compare.shown.table import make_tables, write_csv
from diffx.compare.shown.words import write_verdict
from diffx.compare.study import make_study
from diffx.curves.read import read
from diffx.errors import DiffxError


def edit(folder: Path, **facts: object) -> None:
    file = folder / "run.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **facts}))


def only_remark(root: Path) -> str:
    _, remarks = read([root])
    assert len(remarks) == 1, remarks
    return remarks[0]


def test_runs_are_found_at_and_below_the_given_paths_and_counted_once(root: Path):
    one, two = write_run(root, "plain"), write_run(root, "repa", seed=3)
    runs, remarks = read([root, one, two.parent])
    assert [(run.label, run.seed) for run in runs] == [("plain", 0), ("repa", 3)]
    assert remarks == []


def test_a_curve_is_read_as_written(root: Path):
    write_run(root, curves={"fd_x_1k": falling(100, 0.5)}, costs=(1.0, 4.0))
    (run,) = read([root])[0]
    assert [(point.cost, point.images, point.values["fd_x_1k"]) for point in run.points] == [
        (1.0, 6400, 100.0),
        (4.0, 12800, 50.0),
    ]


def test_a_missing_path_is_an_error_that_says_what_to_give(root: Path):
    with pytest.raises(DiffxError, match="runs/demo"):
        read([root / "nowhere"])


def test_a_run_without_evaluations_is_skipped(root: Path):
    (write_run(root) / "curve.jsonl").write_text("")
    assert "skipped: no evaluations" in only_remark(root)
    assert read([root])[0] == []


def test_a_run_without_a_curve_file_is_skipped(root: Path):
    (write_run(root) / "curve.jsonl").unlink()
    assert "skipped: no evaluations" in only_remark(root)


def test_a_truncated_last_line_costs_that_evaluation_alone(root: Path):
    folder = write_run(root)
    text = (folder / "curve.jsonl").read_text()
    (folder / "curve.jsonl").write_text(text[:-20])
    assert "last line of curve.jsonl (line 4) is cut off" in only_remark(root)
    assert len(read([root])[0][0].points) == 3


def test_a_garbled_middle_line_costs_that_evaluation_alone(root: Path):
    folder = write_run(root)
    lines = (folder / "curve.jsonl").read_text().splitlines()
    (folder / "curve.jsonl").write_text("\n".join([lines[0], "{]", *lines[2:]]) + "\n")
    assert "line 2 of curve.jsonl cannot be read" in only_remark(root)
    assert len(read([root])[0][0].points) == 3


def test_a_duplicate_run_is_skipped_and_the_longer_one_kept(root: Path):
    write_run(root / "copy", costs=(1.0, 2.0))
    write_run(root / "whole", costs=(1.0, 2.0, 4.0))
    assert "copy" not in only_remark(root)
    assert "duplicate" in only_remark(root)
    (run,) = read([root])[0]
    assert len(run.points) == 3


@pytest.mark.parametrize("value", ["NaN", "Infinity", "null"])
def test_a_diverged_run_ends_before_its_first_value_that_is_not_finite(root: Path, value: str):
    folder = write_run(root, curves={"fd_x_1k": falling(9, 0.1)}, costs=(1.0, 2.0, 3.0))
    lines = (folder / "curve.jsonl").read_text().splitlines()
    lines[1] = line(200, 2.0, {"fd_x_1k": "@"}).strip().replace('"@"', value)
    (folder / "curve.jsonl").write_text("\n".join(lines) + "\n")
    assert "diverged: NaN at step 200" in only_remark(root)
    (run,) = read([root])[0]
    assert run.diverged
    assert [point.step for point in run.points] == [100]


def test_a_diverged_run_is_kept_even_when_it_is_marked_as_failed(root: Path):
    folder = write_run(root, curves={"fd_x_1k": falling(9, 0.1)}, costs=(1.0,))
    edit(folder, status="failed")
    with (folder / "curve.jsonl").open("a") as curve:
        curve.write(line(200, 2.0, {"fd_x_1k": float("nan")}))
    assert "diverged" in only_remark(root)
    assert len(read([root])[0]) == 1


def test_a_failed_run_is_skipped(root: Path):
    edit(write_run(root), status="failed")
    assert "the run failed after step 400" in only_remark(root)
    assert read([root])[0] == []


@pytest.mark.parametrize("status", ["running", "interrupted"])
def test_an_unfinished_run_is_kept_with_a_remark(root: Path, status: str):
    edit(write_run(root), status=status)
    assert f"{status}: its curve ends at step 400" in only_remark(root)
    assert len(read([root])[0]) == 1


@pytest.mark.parametrize("name", ["run.json", "config.yaml"])
def test_a_missing_file_skips_that_run_alone(root: Path, name: str):
    (write_run(root, "plain") / name).unlink()
    write_run(root, "repa")
    assert f"skipped: no {name}" in only_remark(root)
    assert [run.label for run in read([root])[0]] == ["repa"]


@pytest.mark.parametrize("name", ["run.json", "config.yaml"])
def test_a_broken_file_skips_that_run_alone(root: Path, name: str):
    (write_run(root, "plain") / name).write_text("{: ][")
    write_run(root, "repa")
    assert "skipped" in only_remark(root)
    assert [run.label for run in read([root])[0]] == ["repa"]


def test_a_resumed_run_goes_on_from_the_step_it_repeats(root: Path):
    folder = write_run(root, curves={"fd_x_1k": falling(9, 0.1)}, costs=(1.0, 2.0, 3.0))
    with (folder / "curve.jsonl").open("a") as curve:
        curve.write(line(200, 2.5, {"fd_x_1k": 5.0}))
    (run,) = read([root])[0]
    assert [(point.step, point.cost) for point in run.points] == [(100, 1.0), (200, 2.5)]


def test_files_of_a_run_are_not_mistaken_for_runs(root: Path):
    folder = write_run(root)
    (folder / "wandb").mkdir()
    (folder / "wandb" / "run.json").write_text("{}")
    assert len(read([root])[0]) == 1


def test_an_evaluation_before_training_is_not_part_of_the_curve(root: Path):
    folder = write_run(root, curves={"fd_x_1k": falling(9, 0.1)}, costs=(1.0,))
    text = (folder / "curve.jsonl").read_text()
    (folder / "curve.jsonl").write_text(line(0, 0.0, {"fd_x_1k": 99.0}) + text)
    assert [point.step for point in read([root])[0][0].points] == [100]


ROW = {"data": "digits", "metric": "fd_embedded_sup_1k", "size": "", "method": "SiT", "value": "9", "source": "a paper"}
PUBLISHED = ({**ROW, "steps": "400", "batch_size": "64", "gpu_hours": "", "gpu": ""},)
FILES = ("run.json", "config.yaml", "curve.jsonl")
FACTS = (
    "label",
    "plugins",
    "parameters",
    "flops",
    "device",
    "precision",
    "cost",
    "protocol",
    "protocol_hash",
    "versions",
)
MORE = ("git", "encoders", "feature_networks", "offline", "reference", "status", "clock", "samples_per_second", "seed")
LEAF = (
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=3) | st.lists(st.integers(), max_size=2)
)
VALUE = (
    LEAF
    | st.dictionaries(st.sampled_from(["floor", "name", "a"]), LEAF)
    | st.lists(st.dictionaries(st.just("name"), LEAF))
)
fuzzed = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def everything_said(root: Path) -> str:
    found = make_study([root], mixed=True)
    found = replace(found, published=PUBLISHED)
    text = "".join(table.markdown() for table in make_tables(found))
    return text + write_csv(found) + write_caption(found) + write_verdict(found)


@fuzzed
@given(st.sampled_from(FILES), st.floats(0, 1), st.binary(max_size=6))
def test_damage_anywhere_in_a_run_never_stops_the_comparison(root: Path, name: str, place: float, put: bytes):
    """A file is cut at any byte and anything put there: the run is read as far as it goes, or skipped."""
    write_run(root, "plain")
    damaged = write_run(root, "repa") / name
    content = damaged.read_bytes()
    damaged.write_bytes(content[: int(place * len(content))] + put)
    assert "plain" in everything_said(root)


@fuzzed
@given(st.sampled_from(FACTS + MORE), VALUE)
@example("cost", [])
def test_a_fact_of_another_kind_never_stops_the_comparison(root: Path, name: str, value: object):
    write_run(root, "plain")
    edit(write_run(root, "repa"), **{name: value})
    assert "plain" in everything_said(root)


@fuzzed
@given(st.sampled_from(["backbone", "data", "plugins", "guidance", "batch_size", "ema_decay", "seed"]), VALUE)
def test_a_setting_of_another_kind_never_stops_the_comparison(root: Path, name: str, value: object):
    write_run(root, "plain", config={name: value})
    write_run(root, "repa", config={name: value})
    assert "plain" in everything_said(root)
