"""Equal work is compared as equal work, and few or copied seeds are never passed off as evidence."""

from pathlib import Path

import pytest
from made_runs import falling, write_run

from diffx.compare.shown.caption import write_caption, write_card
from diffx.compare.shown.page import collect
from diffx.compare.shown.table import make_tables, write_csv
from diffx.compare.shown.words import write_verdict
from diffx.compare.study import make_study
from diffx.curves.read import read
from diffx.errors import DiffxError

METRIC = "fd_embedded_sup_1k"


def sweep(root: Path, prices: tuple[float, ...] = (1.0, 1.2, 1.5), **facts: object) -> None:
    """A sweep whose runs do the same work and see the same curve against steps, on a machine of changing speed."""
    for weight, price in enumerate(prices, start=1):
        for seed in range(3):
            curves = {METRIC: falling((100 + seed) * price**0.8, 0.8)}
            costs = tuple(price * cost for cost in (1.0, 2.0, 3.0, 4.0))
            plugins = {"repa": {"weight": weight}}
            write_run(root, "repa", seed, curves, costs, plugins, facts=dict(facts), identity=f"w{weight}")


def values(root: Path, **options: str) -> list[float]:
    outcomes = make_study([root], **options).results[0].outcomes.values()  # type: ignore[arg-type]
    return [one.equal.mean for one in outcomes if one.equal]


def test_equal_work_at_unequal_cost_is_said(root: Path):
    sweep(root)
    (said,) = [line for line in write_card(make_study([root])) if line.startswith("Equal work")]
    assert "50% dearer for repa weight=3 than for repa weight=1" in said
    assert "--cost normalised" in said


def test_measured_cost_shows_the_machines_speed_and_normalised_cost_does_not(root: Path):
    sweep(root)
    assert max(values(root)) / min(values(root)) > 1.1
    normalised = values(root, cost="normalised")
    assert normalised == pytest.approx([normalised[0]] * 3)


def test_normalised_cost_is_the_median_step_cost_of_all_seeds_of_equal_work(root: Path):
    sweep(root)
    found = make_study([root], cost="normalised")
    ends = [run.points[-1].cost for method in found.methods for run in method.runs]
    assert ends == pytest.approx([4 * 1.2] * 9)


def test_methods_of_other_work_keep_a_price_of_their_own(root: Path):
    write_run(root, "plain", costs=(1.0, 2.0))
    write_run(root, "repa", costs=(2.0, 4.0), facts={"flops": {"train_per_image": 6e8}})
    found = make_study([root], cost="normalised")
    assert [method.runs[0].points[-1].cost for method in found.methods] == [2.0, 4.0]


def test_the_rule_of_cost_stands_in_every_output(root: Path):
    sweep(root)
    for rule in ("measured", "normalised"):
        found = make_study([root], cost=rule)
        assert any(line.startswith(f"cost: {rule}") for line in write_card(found))
        assert f",{rule}," in write_csv(found)
    assert "CPU-hours, normalised" in write_caption(found)
    assert "CPU-hours, normalised" in collect(found, [], {}, [])["axes"][0]["label"]


def test_normalised_cost_without_recorded_flops_is_refused(root: Path):
    write_run(root, "plain", facts={"flops": {}})
    with pytest.raises(DiffxError, match="needs the FLOPs of a step, which plain did not record"):
        make_study([root], cost="normalised")


def test_an_unknown_rule_of_cost_is_refused_with_the_known_ones(root: Path):
    write_run(root, "plain")
    with pytest.raises(DiffxError, match="type one of measured, normalised"):
        make_study([root], cost="free")


def test_without_a_baseline_the_verdict_says_what_a_sweep_shows(root: Path):
    sweep(root, (1.0, 1.0, 1.0))
    said = write_verdict(make_study([root]))
    assert "Sweep of repa in FD embedded sup (1k samples) after 4 CPU-hours" in said
    assert "no value can be told from another" in said


def test_without_baseline_and_sweep_the_methods_are_ranked(root: Path):
    write_run(root, "repa", curves={METRIC: falling(50, 0.8)})
    write_run(root, "tread", curves={METRIC: falling(40, 0.8)})
    assert "from the lowest: tread (7.58), repa (9.47)" in write_verdict(make_study([root]))


@pytest.mark.parametrize("label", ["Against plain", "Time to target", "Interactions", "FD embedded"])
def test_every_table_of_gains_carries_a_caution_with_one_seed(root: Path, label: str):
    for name in ("plain", "repa", "tread", "repa+tread"):
        write_run(root, name)
    tables = [table for table in make_tables(make_study([root])) if table.title.startswith(label)]
    assert tables
    assert all("one seed cannot tell any of this from chance" in table.note for table in tables)


def test_three_seeds_carry_no_caution(root: Path):
    for name in ("plain", "repa"):
        for seed in range(3):
            write_run(root, name, seed, {METRIC: falling(100 + seed, 0.8)})
    assert not any("caution" in table.note for table in make_tables(make_study([root])))


def test_a_sweep_of_one_seed_a_value_carries_a_caution(root: Path):
    for weight in (1, 2, 3):
        write_run(root, "repa", plugins={"repa": {"weight": weight}}, identity=f"w{weight}")
    assert "chance is not excluded" in write_verdict(make_study([root]))
    (table, _) = [table for table in make_tables(make_study([root])) if table.title.startswith("Sweep")]
    assert "one seed a value cannot tell their order from chance" in table.note


def test_one_curve_under_two_seed_numbers_is_noticed(root: Path):
    for seed in range(3):
        write_run(root, "plain", seed, {METRIC: falling(100 + (seed == 2), 0.8)})
    _, remarks = read([root])
    assert len(remarks) == 1
    assert remarks[0].startswith("seeds 0 and 1 of plain have one and the same curve, digit for digit")


def cross(root: Path) -> None:
    """repa starts above plain and falls faster: their curves cross at cost 4."""
    for seed in range(3):
        write_run(root, "plain", seed, {METRIC: falling(100 + seed, 0.5)}, (1.0, 2.0, 4.0, 8.0, 16.0))
        write_run(root, "repa", seed, {METRIC: falling(200 + 2 * seed, 1.0)}, (1.0, 2.0, 4.0, 8.0, 16.0))


def test_a_crossing_of_two_curves_is_found_where_it_is_and_drawn(root: Path):
    from diffx.compare.shown.pictures import figure

    cross(root)
    found = make_study([root])
    (crossing,) = found.results[0].outcomes["repa"].crossings
    assert crossing.x == pytest.approx(4.0, rel=0.02)
    assert crossing.below
    assert [line.get_marker() for line in figure.draw(found, "").axes[0].lines].count("s") == 1


def test_the_verdict_names_the_budgets_for_which_it_holds(root: Path):
    cross(root)
    said = write_verdict(make_study([root]))
    assert "repa is below plain only from 4" in said
    assert "This holds for budgets up to 16 CPU-hours each, not beyond." in said


def test_curves_within_their_seeds_do_not_cross(root: Path):
    for seed in range(3):
        write_run(root, "plain", seed, {METRIC: falling(100 * (1 + 0.1 * seed), 0.8)})
        write_run(root, "repa", seed, {METRIC: falling(103 * (1 + 0.1 * seed), 0.82)})
    assert make_study([root]).results[0].outcomes["repa"].crossings == ()


def test_a_baseline_that_still_falls_steeply_is_said_to_leave_the_order_open(root: Path):
    for seed in range(3):
        write_run(root, "plain", seed, {METRIC: falling(100 + seed, 1.5)})
        write_run(root, "repa", seed, {METRIC: falling(90 + seed, 1.5)})
    assert "plain still fell 2.8-fold in the last doubling" in write_verdict(make_study([root]))


def test_the_rule_of_cost_is_named_by_a_hash_on_the_card_and_in_the_csv(root: Path):
    sweep(root)
    hashes = {}
    for rule in ("measured", "normalised"):
        found = make_study([root], cost=rule)
        hashes[rule] = found.rule_hash
        assert any(line.startswith("cost:") and f"(rule {found.rule_hash})" in line for line in write_card(found))
        assert f",{found.rule_hash}," in write_csv(found)
    assert hashes["measured"] != hashes["normalised"] != make_study([root], best=True).rule_hash
