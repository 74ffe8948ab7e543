"""Statistics on curves whose answers are known."""

import itertools
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from diffx.compare.target import (
    COVERAGE,
    Reach,
    bootstrap,
    chance,
    ladder,
    least_chance,
    median,
    reach,
    speedup,
    value_at,
)

COSTS = [1.0, 2.0, 4.0, 8.0]
LOG_LINEAR = (COSTS, [100 * math.exp(-0.2 * cost) for cost in COSTS])


@given(st.floats(1.0, 8.0))
def test_interpolation_is_exact_on_a_log_linear_curve(cost: float):
    assert value_at(LOG_LINEAR, cost) == pytest.approx(100 * math.exp(-0.2 * cost), rel=1e-12)


@given(st.floats(1.01, 8.0))
def test_the_cost_of_a_target_is_exact_on_a_log_linear_curve(cost: float):
    met = reach(LOG_LINEAR, 100 * math.exp(-0.2 * cost))
    assert met.bound == "=" or cost == 8.0
    assert met.cost == pytest.approx(cost, rel=1e-9)


def test_nothing_is_extrapolated():
    assert math.isnan(value_at(LOG_LINEAR, 0.99))
    assert math.isnan(value_at(LOG_LINEAR, 8.01))


def test_a_target_that_was_not_reached_costs_more_than_the_last_evaluation():
    assert reach(LOG_LINEAR, 1.0) == Reach(8.0, ">")


def test_a_target_met_at_the_first_evaluation_costs_at_most_that():
    assert reach(LOG_LINEAR, 99.0) == Reach(1.0, "<")


def test_the_first_crossing_counts_when_a_curve_rises_again():
    assert reach(([1.0, 2.0, 3.0], [4.0, 1.0, 4.0]), 2.0).cost == pytest.approx(1.5)


def test_distances_at_or_below_zero_are_interpolated_linearly():
    assert value_at(([1.0, 3.0], [2.0, -2.0]), 2.0) == pytest.approx(0.0)
    assert reach(([1.0, 3.0], [2.0, -2.0]), 0.0).cost == pytest.approx(2.0)


def test_the_median_ignores_one_censored_seed_of_three():
    assert median([Reach(9.0, ">"), Reach(2.0), Reach(3.0)]) == Reach(3.0)


def test_the_median_is_a_lower_bound_when_most_seeds_are_censored():
    assert median([Reach(9.0, ">"), Reach(2.0), Reach(8.0, ">")]) == Reach(8.0, ">")


def test_a_lower_bound_of_the_median_never_exceeds_the_median_of_any_completion():
    seeds = [Reach(4.0, ">"), Reach(5.0), Reach(6.0, ">"), Reach(7.0)]
    bound = median(seeds)
    assert bound.bound == ">"
    for more in itertools.product((0.0, 1.0, 10.0), repeat=4):
        completed = [one.cost + (extra if one.bound == ">" else 0) for one, extra in zip(seeds, more, strict=True)]
        assert bound.cost <= np.median(completed) + 1e-12


def test_a_speed_up_divides_the_baselines_cost_by_the_methods():
    assert speedup([Reach(8.0)], [Reach(2.0)]).ratio == 4.0  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("baseline", "method", "bound"),
    [(Reach(8.0, ">"), Reach(2.0), ">"), (Reach(8.0), Reach(9.0, ">"), "<"), (Reach(8.0), Reach(1.0, "<"), ">")],
)
def test_censoring_turns_a_speed_up_into_a_bound(baseline: Reach, method: Reach, bound: str):
    assert speedup([baseline], [method]).bound == bound  # type: ignore[union-attr]


def test_two_targets_that_were_not_reached_say_nothing_about_speed():
    assert speedup([Reach(8.0, ">")], [Reach(8.0, ">")]) is None


def test_one_seed_has_no_interval():
    assert bootstrap([Reach(8.0)], [Reach(2.0), Reach(3.0)]) is None


def test_equal_seeds_give_an_interval_of_no_width():
    assert bootstrap([Reach(8.0)] * 3, [Reach(2.0)] * 3) == (4.0, 4.0)


def test_three_seeds_give_the_interval_from_the_worst_to_the_best_ratio():
    low, high = bootstrap([Reach(c) for c in (8.0, 9.0, 10.0)], [Reach(c) for c in (2.0, 3.0, 4.0)])  # type: ignore[misc]
    assert (low, high) == (2.0, 5.0)


def test_the_interval_covers_the_true_speed_up_about_as_often_as_it_says():
    rng = np.random.default_rng(0)
    draws = 60
    covered = 0
    for _ in range(draws):
        sides = [[Reach(c) for c in middle * np.exp(rng.normal(0, 0.1, 9))] for middle in (8.0, 4.0)]
        low, high = bootstrap(*sides)  # type: ignore[misc]
        covered += low <= 2.0 <= high
    assert covered >= 0.88 * draws


def test_a_seed_that_did_not_reach_the_target_opens_the_interval():
    low, high = bootstrap([Reach(8.0), Reach(8.0), Reach(9.0, ">")], [Reach(2.0), Reach(2.0), Reach(2.0)])  # type: ignore[misc]
    assert low == 4.0
    assert math.isinf(high)


def test_a_baseline_that_never_reached_the_target_still_gives_the_speed_up_a_lower_end():
    """Each of its seeds cost more than 8, so a method that took 2 or 4 is more than twice as fast, without a limit."""
    low, high = bootstrap([Reach(8.0, ">")] * 3, [Reach(2.0), Reach(2.0), Reach(4.0)])  # type: ignore[misc]
    assert low == 2.0
    assert math.isinf(high)


def test_a_method_that_met_the_target_at_its_first_evaluation_has_no_upper_end():
    low, high = bootstrap([Reach(8.0)] * 3, [Reach(2.0, "<")] * 3)  # type: ignore[misc]
    assert low == 4.0
    assert math.isinf(high)


def test_when_neither_side_reached_the_target_there_is_no_interval():
    assert bootstrap([Reach(8.0, ">")] * 3, [Reach(8.0, ">")] * 3) is None


@pytest.mark.parametrize("count", sorted(COVERAGE))
def test_with_few_seeds_the_interval_covers_the_true_ratio_as_often_as_is_said(count: int):
    rng = np.random.default_rng(3)
    draws, covered = 250, 0
    for _ in range(draws):
        sides = [[Reach(c) for c in middle * np.exp(rng.normal(0, 0.1, count))] for middle in (8.0, 4.0)]
        low, high = bootstrap(*sides)  # type: ignore[misc]
        covered += low <= 2.0 <= high
    assert covered / draws == pytest.approx(COVERAGE[count], abs=0.06)


def test_the_permutation_chance_of_three_separate_seeds_is_one_in_ten():
    assert chance([1.0, 1.1, 1.2], [2.0, 2.1, 2.2]) == pytest.approx(0.1)
    assert least_chance(3, 3) == pytest.approx(0.1)


def test_the_permutation_chance_counts_every_split_by_hand():
    one, other = [1.0, 4.0, 3.0], [2.0, 9.0]
    logs = np.log([*one, *other])
    gaps = []
    for picked in itertools.combinations(range(5), 3):
        rest = [place for place in range(5) if place not in picked]
        gaps.append(abs(logs[list(picked)].mean() - logs[rest].mean()))
    seen = abs(np.log(one).mean() - np.log(other).mean())
    assert chance(one, other) == pytest.approx(np.mean([gap >= seen - 1e-12 for gap in gaps]))


def test_equal_methods_look_different_as_often_as_the_chance_says():
    rng = np.random.default_rng(1)
    false = [chance(rng.lognormal(0, 0.2, 3).tolist(), rng.lognormal(0, 0.2, 3).tolist()) <= 0.1 for _ in range(400)]
    assert 0.05 < np.mean(false) < 0.15


def test_many_seeds_are_sampled_and_agree_with_the_normal_law():
    rng = np.random.default_rng(2)
    far = chance(rng.lognormal(0, 0.1, 20).tolist(), rng.lognormal(1, 0.1, 20).tolist())
    near = chance(rng.lognormal(0, 0.1, 20).tolist(), rng.lognormal(0, 0.1, 20).tolist())
    assert far < 0.001 < near


def test_the_ladder_holds_the_baselines_final_value_and_round_numbers_between_best_and_start():
    targets = ladder(final=3.4, start=85.0, best=2.6)
    assert 3.4 in targets
    assert targets == sorted(targets, reverse=True)
    assert all(2.6 <= target < 85.0 for target in targets)
    assert len(targets) == 5
