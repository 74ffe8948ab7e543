"""What a stranger's run may bring: none of it computes, colours, links, hangs or breaks a file."""

import io
import json
import os
from pathlib import Path

import pytest
from made_runs import falling, write_run
from rich.console import Console

from diffx.compare import compare
from diffx.compare.output import say, write_data
from diffx.compare.shown.table import make_tables, write_csv
from diffx.compare.study import make_study
from diffx.curves.read import LARGEST, read

METRIC = "fd_embedded_sup_1k"


def told(root: Path) -> list[str]:
    return read([root])[1]


def compared(root: Path, out: Path) -> str:
    """What the terminal shows; the data are in `out`."""
    text = io.StringIO()
    found = make_study([root])
    tables = make_tables(found)
    write_data(found, tables, out)
    say(found, tables, out, Console(file=text, width=100, force_terminal=True))
    return text.getvalue()


@pytest.mark.parametrize("label", ["=1+1", "+1", "-1", "@SUM(A1)"])
def test_a_cell_of_the_csv_never_starts_a_formula(root: Path, label: str):
    write_run(root, "plain")
    write_run(root, label, plugins={label: {}}, identity="odd")
    cells = [cell for line in write_csv(make_study([root])).splitlines() for cell in line.split(",")]
    assert f"'{label}" in cells
    assert label not in cells


def test_a_negative_number_of_the_csv_stays_a_number(root: Path):
    write_run(root, curves={"kid_1k": lambda cost: -0.5})
    assert ",-0.5," in write_csv(make_study([root]))


def test_terminal_escapes_do_not_reach_the_terminal_or_a_file(root: Path, tmp_path: Path):
    write_run(root, "plain")
    write_run(root, "\x1b]0;owned\x07\x1b[31mred", plugins={"x": {}}, identity="odd", facts={"status": "\x1b[2J"})
    said = compared(root, tmp_path / "out")
    compare([root], tmp_path / "out", console=Console(file=io.StringIO()))
    files = "".join((tmp_path / "out" / f"compare.{kind}").read_text() for kind in ("md", "csv", "svg", "html"))
    for text in (said, files):
        assert "\x1b]0" not in text
        assert "\x1b[31mred" not in text
        assert "\x1b[2J" not in text
        assert "\x07" not in text


def test_html_and_links_are_text_in_markdown(root: Path, tmp_path: Path):
    write_run(root, "plain")
    write_run(root, "<img src=x onerror=alert(1)>[a](http://x.y)", plugins={"x": {}}, identity="odd")
    compared(root, tmp_path / "out")
    text = (tmp_path / "out" / "compare.md").read_text()
    assert "<img" not in text
    assert "&lt;img" in text
    assert "](http" not in text


def test_a_metric_that_is_called_like_markup_is_a_name(root: Path, tmp_path: Path):
    write_run(root, "plain", curves={METRIC: falling(9, 0.1), "[/red]": falling(3, 0.1)})
    assert "[/red]" in compared(root, tmp_path / "out")


def test_a_lone_surrogate_breaks_no_file(root: Path, tmp_path: Path):
    write_run(root, "plain")
    folder = write_run(root, "repa")
    facts = json.loads((folder / "run.json").read_text())
    (folder / "run.json").write_text(json.dumps({**facts, "label": "bad \ud800 label"}))
    compare([root], tmp_path / "out", console=Console(file=io.StringIO()))
    assert "bad \ufffd label" in (tmp_path / "out" / "compare.md").read_text()


def test_a_very_long_label_is_cut(root: Path, tmp_path: Path):
    write_run(root, "plain")
    write_run(root, "x" * 20_000, plugins={"x": {}}, identity="odd")
    compare([root], tmp_path / "out", console=Console(file=io.StringIO()))
    text = (tmp_path / "out" / "compare.md").read_text()
    assert "x" * 59 + "…" in text
    assert "x" * 60 not in text


def test_yaml_aliases_are_refused_before_they_grow(root: Path):
    folder = write_run(root, "plain")
    levels = ["a0: &a0 [x, x, x, x, x, x, x, x, x]"]
    levels += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]" for n in range(1, 9)]
    (folder / "config.yaml").write_text("\n".join(levels))
    assert told(root) == ["demo/plain/s0: skipped: config.yaml holds YAML aliases, which diffx does not write"]


@pytest.mark.parametrize("name", ["run.json", "config.yaml", "curve.jsonl"])
def test_a_pipe_in_place_of_a_file_is_not_opened(root: Path, name: str):
    folder = write_run(root, "plain")
    (folder / name).unlink()
    os.mkfifo(folder / name)
    assert len(told(root)) == 1
    assert "skipped" in told(root)[0]


def test_a_file_larger_than_any_of_diffx_is_not_read(root: Path):
    folder = write_run(root, "plain")
    with (folder / "run.json").open("r+b") as file:
        file.truncate(LARGEST + 1)
    assert told(root) == ["demo/plain/s0: skipped: run.json is larger than 32 MB"]


def test_settings_nested_beyond_any_real_one_are_cut_off(root: Path, tmp_path: Path):
    facts = json.loads("[" * 400 + "1" + "]" * 400)
    write_run(root, "plain", facts={"protocol": {"deep": facts}})
    compared(root, tmp_path / "out")
    assert "…" in (tmp_path / "out" / "compare.md").read_text()


@pytest.mark.parametrize("text", [b"12", b"null", b"[1]", b'"x"'])
def test_a_line_that_is_valid_json_but_no_evaluation_is_left_out_with_a_remark(root: Path, text: bytes):
    folder = write_run(root, "plain")
    curve = folder / "curve.jsonl"
    curve.write_bytes(text + b"\n" + curve.read_bytes())
    assert told(root) == ["demo/plain/s0: line 1 of curve.jsonl is no evaluation: left out"]
    assert len(read([root])[0][0].points) == 4


def test_a_line_that_is_not_utf8_is_left_out_with_a_remark(root: Path):
    folder = write_run(root, "plain")
    curve = folder / "curve.jsonl"
    first, rest = curve.read_bytes().split(b"\n", 1)
    curve.write_bytes(first.replace(b"ab12", b"\xff\xfe") + b"\n" + rest)
    assert told(root) == ["demo/plain/s0: line 1 of curve.jsonl cannot be read: that evaluation is left out"]
    assert len(read([root])[0][0].points) == 3


@pytest.mark.parametrize("number", [10**400, -1, 2**60])
def test_a_step_that_is_no_count_costs_that_evaluation_alone(root: Path, number: int):
    folder = write_run(root, "plain")
    curve = folder / "curve.jsonl"
    curve.write_text(curve.read_text().replace('"step": 100,', f'"step": {number},'))
    assert len(told(root)) == 1
    assert len(read([root])[0][0].points) == 3


def test_counts_that_do_not_grow_cost_those_evaluations_on_that_axis_alone(root: Path):
    folder = write_run(root, "plain")
    curve = folder / "curve.jsonl"
    curve.write_text(curve.read_text().replace('"images": 12800,', '"images": 6400,'))
    points = make_study([root]).points
    assert points.curves("plain", METRIC, "images")[0].x == (6400.0, 19200.0, 25600.0)
    assert len(points.curves("plain", METRIC)[0].x) == 4
