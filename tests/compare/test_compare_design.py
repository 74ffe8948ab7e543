"""Interactions, responses to swept settings, and published marks."""

import io
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from made_runs import write_run
from rich.console import Console

from diffx.compare import compare
from diffx.compare.design import find_flat_region, find_interactions, find_responses
from diffx.compare.shown.published import find_published, place_published, read_published
from diffx.compare.shown.table import tabulate_interactions
from diffx.compare.shown.words import write_answer
from diffx.compare.study import Study, count_in, make_study
from diffx.curves.seeds import Spread
from diffx.errors import DiffxError

METRIC = "fd_embedded_sup_1k"


def level(value: float) -> dict[str, Callable[[float], float]]:
    """A curve that halves from twice the value to the value at cost 8."""
    return {METRIC: lambda cost: value * 2 ** ((8 - cost) / 7)}


def four(root: Path, plain: float, first: float, second: float, both: float, seed: int = 0) -> None:
    for label, value in (("plain", plain), ("repa", first), ("tread", second), ("repa+tread", both)):
        write_run(root, label, seed, level(value))


def test_gains_that_add_up_have_no_surplus(root: Path):
    four(root, plain=10, first=8, second=7, both=5)
    (one,) = find_interactions(make_study([root]))
    assert one.labels == ("repa", "tread", "repa+tread")
    assert [gain.mean for gain in one.gains] == pytest.approx([2, 3, 5])
    assert one.surplus.mean == pytest.approx(0, abs=1e-9)


def test_gains_that_multiply_have_a_factor_of_one(root: Path):
    four(root, plain=10, first=8, second=5, both=4)
    (one,) = find_interactions(make_study([root]))
    assert one.factor.mean == pytest.approx(1)
    assert one.surplus.mean == pytest.approx(-1)


def test_a_pair_that_helps_more_than_its_parts_has_a_positive_surplus(root: Path):
    four(root, plain=10, first=9, second=9, both=5)
    (one,) = find_interactions(make_study([root]))
    assert one.surplus.mean == pytest.approx(3)


def test_the_surplus_is_computed_seed_by_seed(root: Path):
    """Seeds that shift all four methods alike leave the surplus alone, however far apart they are."""
    for seed, shift in enumerate((0, 5, 50)):
        four(root, 10 + shift, 8 + shift, 7 + shift, 5 + shift, seed)
    (one,) = find_interactions(make_study([root]))
    assert one.paired
    assert one.surplus.count == 3
    assert one.surplus.low == pytest.approx(0, abs=1e-9)
    assert one.surplus.high == pytest.approx(0, abs=1e-9)


def test_without_shared_seeds_means_are_used_and_said_to_be_unpaired(root: Path):
    for seed, (label, value) in enumerate((("plain", 10), ("repa", 8), ("tread", 7), ("repa+tread", 5))):
        write_run(root, label, seed, level(value))
    found = make_study([root])
    (one,) = find_interactions(found)
    assert not one.paired
    assert one.surplus.mean == pytest.approx(0, abs=1e-9)
    assert tabulate_interactions(found)[0].rows[0][-1] == "unpaired"


def test_a_part_with_other_settings_is_not_the_part_of_the_pair(root: Path):
    four(root, 10, 8, 7, 5)
    write_run(root, "repa", curves=level(8), plugins={"repa": {"weight": 9.0}})
    assert find_interactions(make_study([root])) == []


def test_without_a_plain_run_there_are_no_interactions(root: Path):
    for label in ("repa", "tread", "repa+tread"):
        write_run(root, label)
    assert find_interactions(make_study([root])) == []


def sweep(root: Path, values: dict[float, float]) -> None:
    for weight, value in values.items():
        write_run(root, "repa", curves=level(value), plugins={"repa": {"weight": weight}}, identity=f"w{weight}")


def test_a_swept_setting_gives_a_response_at_equal_cost(root: Path):
    sweep(root, {0.25: 6.0, 1.0: 5.0, 0.5: 4.0})
    write_run(root, "plain", curves=level(10))
    (one,) = find_responses(make_study([root]))
    assert one.names == ("plugins.repa.weight",)
    assert one.points == ((0.25,), (0.5,), (1.0,))
    assert [value.mean for value in one.values] == pytest.approx([6, 4, 5])


def test_two_values_are_no_response(root: Path):
    sweep(root, {0.25: 6.0, 1.0: 5.0})
    assert find_responses(make_study([root])) == []


def test_two_swept_settings_give_a_grid(root: Path):
    for weight in (0.5, 1.0):
        for depth in (2, 4):
            plugins = {"repa": {"weight": weight, "depth": depth}}
            write_run(root, "repa", curves=level(weight * depth), plugins=plugins, identity=f"{weight}-{depth}")
    (one,) = find_responses(make_study([root]))
    assert one.names == ("plugins.repa.weight", "plugins.repa.depth")
    assert one.points == ((0.5, 2.0), (0.5, 4.0), (1.0, 2.0), (1.0, 4.0))
    assert [value.mean for value in one.values] == pytest.approx([1, 2, 2, 4])


def seeds(*values: float) -> Spread:
    return Spread(sum(values) / len(values), min(values), max(values), values)


def test_the_flat_region_reaches_as_far_as_means_stay_below_the_best_values_worst_seed():
    points = ((1.0,), (2.0,), (3.0,), (4.0,))
    values = (seeds(5.0, 5.2), seeds(4.0, 4.4), seeds(4.2, 4.5), seeds(4.5, 4.6))
    assert find_flat_region(points, values) == (1, 2)


def test_with_one_seed_the_flat_region_is_within_five_per_cent():
    points = ((1.0,), (2.0,), (3.0,))
    assert find_flat_region(points, (seeds(4.0), seeds(4.19), seeds(4.21))) == (0, 1)


def test_a_good_value_behind_a_bad_one_is_not_in_the_flat_region():
    points = ((1.0,), (2.0,), (3.0,))
    assert find_flat_region(points, (seeds(4.0), seeds(9.0), seeds(4.0))) == (0,)


def test_the_flat_region_is_said_in_words_and_drawn(root: Path, tmp_path: Path):
    sweep(root, {0.25: 6.0, 0.5: 4.0, 1.0: 4.1, 2.0: 7.0})
    (one,) = find_responses(make_study([root]))
    assert one.describe_flat() == "weight 0.5 to 1"
    compare([root], tmp_path / "report", console=Console(file=io.StringIO()))
    assert "flat: weight 0.5 to 1" in (tmp_path / "report" / "response_repa.svg").read_text()
    assert "response_repa.png" in (tmp_path / "report" / "compare.md").read_text()


def test_a_sweep_without_plain_says_where_it_is_flat_and_that_nothing_else_can_be_said(root: Path):
    sweep(root, {0.25: 6.0, 0.5: 4.0, 1.0: 4.1, 2.0: 7.0})
    assert write_answer(make_study([root])) == (
        "In FD embedded sup (1k samples) the sweep of repa over weight is flat at weight 0.5 to 1 (one seed a value, "
        "so chance is not excluded). There is no run without plugins to compare with, so nothing is said about gains, "
        "and nothing else can be said."
    )


def test_a_flat_region_at_the_edge_of_a_sweep_is_said_to_be_there(root: Path):
    sweep(root, {0.25: 4.1, 0.5: 4.0, 1.0: 6.0})
    assert "it reaches the edge of the sweep (weight 0.25), beyond which nothing was run." in write_answer(
        make_study([root])
    )
    sweep(root, {1.0: 4.1})
    assert "is flat: no value can be told from another" in write_answer(make_study([root]))


XL = {
    "backbone": {"hidden_size": 1152, "depth": 28, "patch_size": 2},
    "data": {"name": "imagenet256"},
    "guidance": {"scale": 1.0},
}
ROW = {
    "method": "SiT",
    "size": "XL/2",
    "data": "imagenet256",
    "metric": "fid_50k",
    "value": "17.2",
    "steps": "400000",
    "batch_size": "256",
    "gpu_hours": "165",
    "gpu": "H100",
    "protocol": "",
    "source": "a paper",
}


def imagenet(root: Path, **changes: object) -> None:
    device = {"kind": "cuda", "name": "NVIDIA H100", "count": 8}
    facts = {"cost": "gpu_hours", "device": device, "feature_networks": []}
    write_run(root, "plain", 0, {"fid_50k": lambda cost: 20}, (50.0, 200.0), config={**XL, **changes}, facts=facts)


def found(root: Path, axis: str = "cost") -> list[float]:
    return [mark.x for mark in place_published(count_in(beside(root, ROW), axis), "fid_50k")]


def beside(root: Path, row: dict[str, str]) -> Study:
    """The study of the runs beside one published number."""
    return replace(make_study([root]), published=(row,))


def test_a_published_number_stands_beside_runs_of_its_data_metric_and_size(root: Path):
    imagenet(root)
    assert found(root) == [165.0]


@pytest.mark.parametrize(
    "changes",
    [
        {"data": {"name": "digits"}},
        {"backbone": {"hidden_size": 768, "depth": 12, "patch_size": 2}},
        {"guidance": {"scale": 1.5}},
    ],
)
def test_a_published_number_does_not_stand_beside_other_runs(root: Path, changes: dict):
    imagenet(root, **changes)
    assert found(root) == []


def test_published_hours_of_another_gpu_are_not_drawn(root: Path):
    imagenet(root)
    assert place_published(beside(root, {**ROW, "gpu": "A100"}), "fid_50k") == []


def test_a_number_far_beyond_the_runs_is_not_drawn(root: Path):
    imagenet(root)
    assert found(root, "step") == []


def test_every_published_number_of_the_project_has_a_source_and_a_finite_value():
    file = find_published()
    assert file is not None
    rows = read_published(file)
    assert len(rows) > 20
    assert all(math.isfinite(float(row["value"])) and row["source"] for row in rows)
    assert all(not row["gpu_hours"] or row["gpu"] for row in rows)


def test_a_row_without_a_source_is_refused(tmp_path: Path):
    file = tmp_path / "published.csv"
    file.write_text(",".join(ROW) + "\n" + ",".join([*list(ROW.values())[:-1], ""]) + "\n")
    with pytest.raises(DiffxError, match="line 2: source is empty"):
        read_published(file)


def test_a_table_without_its_columns_is_refused(tmp_path: Path):
    file = tmp_path / "published.csv"
    file.write_text("method,value\nSiT,17.2\n")
    with pytest.raises(DiffxError, match="lacks the columns size, data"):
        read_published(file)
