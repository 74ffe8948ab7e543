"""docs/methods.md says what is: its tables are counted, and every pair is planned again."""

import re
from pathlib import Path

import pytest

from benchmarks.methods import (
    BACKBONES,
    CONFIGS,
    METHODS,
    PAGE,
    count_pair,
    fill,
    own_methods,
    pairs,
    plan_on,
    plan_pair,
    relative,
    sketch,
)

PAGE = Path(__file__).parents[2] / PAGE


def block(name):
    return re.search(rf"<!-- {name} -->\n(.*?)\n<!-- /{name} -->", PAGE.read_text(), re.DOTALL)[1]


def pair_cells():
    """By pair, its cell; and by number, the sentence of a refusal."""
    table, _, notes = block("pairs").partition("\n\n")
    head, _, *rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in table.splitlines()]
    cells = {(row[0], other): cell for row in rows for other, cell in zip(head[1:], row[1:], strict=True) if cell}
    return cells, dict(line.split(". ", 1) for line in notes.splitlines())


def test_every_method_of_ours_has_a_row():
    assert set(own_methods()) == set(METHODS)
    assert all(f"[{method.title}]" in block("methods") for method in METHODS.values())


def test_every_pair_is_in_the_table_and_composes_or_is_refused_as_it_says():
    cells, notes = pair_cells()
    assert set(cells) == set(pairs())
    for pair, cell in cells.items():
        planned = plan_pair(*pair)
        number = re.fullmatch(r"no \((\d+)\)", cell)
        if number is None:
            assert not isinstance(planned, str), (pair, planned)
            continue
        assert planned == notes[number[1]], pair
        assert all(f"plugins.{name}" in planned for name in pair), planned


@pytest.mark.parametrize("pair", [("repa", "tread"), ("layersync", "dispersive")])
def test_the_cost_of_a_pair_is_the_tables(pair):
    assert pair_cells()[0][pair] == f"{count_pair(*pair).relative:.2f}"


@pytest.mark.parametrize("name", ["sra", "tread"])
def test_the_cost_of_a_method_on_s_is_the_tables(name):
    row = next(line for line in block("methods").splitlines() if f"[{METHODS[name].title}]" in line)
    assert row.split("|")[5].strip() == f"{relative(sketch('s', [name])):.2f}"


@pytest.mark.parametrize(("name", "backbone"), [
    ("tread", "JiT"), ("self_flow", "RAEv2"), ("haste", "DiT^DH"), ("tread", "MM-DiT"), ("identity", "PixArt"),
])  # fmt: skip
def test_a_method_on_a_backbone_composes_or_is_refused_as_the_table_says(name, backbone):
    table, _, notes = block("backbones").partition("\n\n")
    head, _, *rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in table.splitlines()]
    assert head[1:] == list(BACKBONES)
    cell = next(row for row in rows if row[0] == name)[head.index(backbone)]
    numbered = {f"no ({line.partition('. ')[0]})": line.partition(". ")[2] for line in notes.splitlines()}
    assert plan_on(BACKBONES[backbone], name) == numbered.get(cell, "")


def test_every_line_to_run_composes():
    for name, method in METHODS.items():
        key, _, value = method.run.partition("=")
        file = {"+experiment": f"experiment/{value}", "plugins": f"plugins/{value.strip('[]')}"}[key]
        assert (PAGE.parents[1] / "conf" / f"{file}.yaml").exists(), name
        words = (PAGE.parents[1] / "conf" / f"{file}.yaml").read_text()
        assert name in words or CONFIGS[name] in words


def test_only_what_stands_between_the_marks_is_replaced():
    page = "one\n<!-- a -->\nold\n<!-- /a -->\ntwo\n"
    assert fill(page, {"a": "new"}) == "one\n<!-- a -->\nnew\n<!-- /a -->\ntwo\n"
