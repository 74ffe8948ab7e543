"""Evaluations after training, under other protocols than the curve's."""

import io
import json
from pathlib import Path
from typing import Any

import pytest
from made_runs import line, write_run
from rich.console import Console

from diffx.compare import compare
from diffx.compare.shown.table import make_tables
from diffx.compare.shown.words import count_spaces
from diffx.compare.study import make_study
from diffx.curves.measured import read_measured
from diffx.curves.read import read
from diffx.errors import DiffxError


def evaluated(folder: Path, name: str, value: float, key: str = "ad50", cost: float = 8.0, **facts: Any) -> None:
    """One line of curve_NAME.jsonl as diffx.evaluate appends it."""
    made = json.loads(line(400, cost, {"fid_50k": value, "sfid_50k": 2 * value}, protocol=key))
    with (folder / f"curve_{name}.jsonl").open("a") as file:
        file.write(json.dumps({**made, "protocol_facts": {"samples": 50_000, **facts}}) + "\n")


def four(root: Path) -> None:
    """Two methods of two seeds, whose runs end within a step of the same cost."""
    for seed in (0, 1):
        evaluated(write_run(root, "plain", seed), "adm_50k", 20.0 + seed, cost=8.0 + 0.02 * seed)
        evaluated(write_run(root, "repa", seed), "adm_50k", 10.0 + seed, cost=8.02)


def test_evaluations_after_training_are_not_part_of_the_curve(root: Path):
    four(root)
    found = make_study([root])
    assert [result.metric for result in found.results] == ["fd_embedded_sup_1k", "fd_embedded_ssl_1k"]


def test_final_values_stand_in_a_table_under_their_protocols_name(root: Path):
    four(root)
    (table,) = [one for one in make_tables(make_study([root])) if one.title == "Measured under adm_50k:ad50"]
    assert table.header == ("method", "seeds", "CPU-hours", "fid_50k", "sfid_50k")
    assert table.rows[0] == ("plain", "2", "8.01", "20.5 [20 – 21]", "41 [40 – 42]")
    assert "samples 50000" in table.note


def test_a_protocol_can_be_chosen_in_place_of_the_curves(root: Path, tmp_path: Path):
    four(root)
    folder = compare([root], tmp_path / "report", protocol="adm_50k", console=Console(file=io.StringIO()))
    text = (folder / "compare.md").read_text()
    assert "| plain | 2 | 20.5 [20 – 21] | 20.5 [20 – 21] |" in text
    assert "| repa | 2 | 10.5 [10 – 11] | 10.5 [10 – 11] | 1.95× |" in text
    assert "Protocol adm_50k: samples 50000" in text
    assert "Measured under" not in text


def test_two_metrics_of_one_network_are_one_feature_space(root: Path):
    four(root)
    found = make_study([root], protocol="adm_50k")
    assert "in the one feature space measured" in count_spaces(found)
    assert any("only one feature space" in remark for remark in found.remarks)


def test_two_protocols_of_one_name_are_told_apart_by_hash_and_one_has_to_be_chosen(root: Path):
    folder = write_run(root, "plain")
    evaluated(folder, "adm_50k", 20.0, key="aa", ema_decay=0.999)
    evaluated(folder, "adm_50k", 15.0, key="bb", ema_decay=0.9999)
    (run,) = read([root])[0]
    assert [(str(one), one.points[0].values["fid_50k"]) for one in read_measured(run)] == [
        ("adm_50k:aa", 20.0),
        ("adm_50k:bb", 15.0),
    ]
    with pytest.raises(DiffxError, match=r"adm_50k:aa \(ema_decay 0.999\); adm_50k:bb \(ema_decay 0.9999\)"):
        make_study([root], protocol="adm_50k")
    assert make_study([root], protocol="adm_50k:bb").results[0].outcomes["plain"].final.mean == 15.0  # type: ignore[union-attr]


def test_a_run_that_was_not_measured_under_a_protocol_is_left_out_with_a_remark(root: Path):
    evaluated(write_run(root, "plain"), "adm_50k", 20.0)
    write_run(root, "repa")
    found = make_study([root], protocol="adm_50k")
    assert [method.label for method in found.methods] == ["plain"]
    assert "demo/repa/s0: skipped: not measured under adm_50k" in found.remarks


def test_an_unknown_protocol_is_refused_with_those_that_there_are(root: Path):
    evaluated(write_run(root, "plain"), "adm_50k", 20.0)
    with pytest.raises(DiffxError, match=r"no run was measured under the protocol sit_ode\. There is adm_50k:ad50"):
        make_study([root], protocol="sit_ode")


def test_a_cut_off_line_costs_that_evaluation_alone(root: Path):
    folder = write_run(root, "plain")
    evaluated(folder, "adm_50k", 20.0)
    with (folder / "curve_adm_50k.jsonl").open("a") as file:
        file.write('{"step": 4')
    (run,) = read([root])[0]
    assert [len(one.points) for one in read_measured(run)] == [1]
