"""What is read between evaluations, and the statistics over seeds, on curves whose answers are known."""

import itertools
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.compare_coverage import SHAPES, Setting, simulate_nulls, simulate_speedups
from diffx.curves.curve import Curve, Reach, find_cost, read_value
from diffx.curves.seeds import (
    Speedup,
    choose_ladder,
    compare_costs,
    find_interval,
    find_least_chance,
    permute,
    share_error,
    take_median,
)

COSTS = (1.0, 2.0, 4.0, 8.0)
POWER_LAW = Curve(COSTS, tuple(100 * cost**-0.7 for cost in COSTS))


def read(curve: Curve, cost: float) -> float:
    found = read_value(curve, cost)
    assert found is not None
    return found.value


@given(st.floats(1.0, 8.0))
def test_interpolation_is_exact_on_a_power_law(cost: float):
    assert read(POWER_LAW, cost) == pytest.approx(100 * cost**-0.7, rel=1e-12)


@given(st.floats(1.01, 8.0))
def test_the_cost_of_a_target_is_exact_on_a_power_law(cost: float):
    assert find_cost(POWER_LAW, 100 * cost**-0.7).cost == pytest.approx(cost, rel=1e-9)


@given(st.lists(st.floats(0.01, 100), min_size=2, max_size=8), st.floats(0, 1))
def test_a_value_read_between_two_evaluations_lies_between_them(values: list[float], share: float):
    curve = Curve(tuple(2.0**place for place in range(len(values))), tuple(values))
    gap = int(share * (len(values) - 1.001))
    low, high = sorted(values[gap : gap + 2])
    assert low * (1 - 1e-9) <= read(curve, 2.0 ** (gap + 0.5)) <= high * (1 + 1e-9)


@pytest.mark.parametrize("shape", sorted(SHAPES))
def test_the_uncertainty_of_a_reading_is_at_least_its_error_on_curves_evaluated_twice_a_doubling(shape: str):
    costs = 2.0 ** np.arange(0, 5.5, 0.5)
    curve = Curve(tuple(costs), tuple(SHAPES[shape](costs)))
    for cost in np.geomspace(2, 16, 40):
        found = read_value(curve, float(cost))
        assert found is not None
        missed = abs(math.log(found.value / SHAPES[shape](cost)))
        assert missed <= max(map(abs, found.errors), default=0.0) + 3e-3


def test_nothing_is_extrapolated():
    assert read_value(POWER_LAW, 0.97) is None
    assert read_value(POWER_LAW, 8.2) is None


def test_runs_of_one_budget_that_end_a_step_apart_are_read_at_their_ends():
    assert read(POWER_LAW, 8.1) == pytest.approx(POWER_LAW.y[-1], rel=1e-12)


def test_between_two_evaluations_alone_the_uncertainty_is_half_of_what_lies_between():
    found = read_value(Curve((1.0, 4.0), (16.0, 1.0)), 2.0)
    assert found is not None
    assert abs(found.errors[0]) == pytest.approx(math.log(16) / 2)


def test_a_target_that_was_not_reached_costs_more_than_the_last_evaluation():
    assert find_cost(POWER_LAW, 1.0) == Reach(8.0, ">")


def test_a_target_met_at_the_first_evaluation_costs_at_most_that():
    assert find_cost(POWER_LAW, 100.0) == Reach(1.0, "<")


def test_the_first_crossing_counts_when_a_curve_rises_again():
    met = find_cost(Curve((1.0, 4.0, 16.0), (4.0, 1.0, 4.0)), 2.0)
    assert (met.bound, 1.0 < met.cost < 4.0) == ("=", True)


def test_distances_at_or_below_zero_are_read_without_a_logarithm():
    assert read(Curve((1.0, 4.0), (2.0, -2.0)), 2.0) == pytest.approx(0.0)
    assert find_cost(Curve((1.0, 4.0), (2.0, -2.0)), 0.0).cost == pytest.approx(2.0)


def test_the_median_ignores_one_censored_seed_of_three():
    assert take_median([Reach(9.0, ">"), Reach(2.0), Reach(3.0)]) == Reach(3.0)


def test_the_median_is_a_lower_bound_when_most_seeds_are_censored():
    assert take_median([Reach(9.0, ">"), Reach(2.0), Reach(8.0, ">")]) == Reach(8.0, ">")


def test_a_lower_bound_of_the_median_never_exceeds_the_median_of_any_completion():
    seeds = [Reach(4.0, ">"), Reach(5.0), Reach(6.0, ">"), Reach(7.0)]
    bound = take_median(seeds)
    assert bound.bound == ">"
    for more in itertools.product((0.0, 1.0, 10.0), repeat=4):
        completed = [one.cost + (extra if one.bound == ">" else 0) for one, extra in zip(seeds, more, strict=True)]
        assert bound.cost <= np.median(completed) + 1e-12


def gain(baseline: list[Reach], method: list[Reach]) -> Speedup:
    found = compare_costs(baseline, method)
    assert found is not None
    return found


def test_a_speed_up_divides_the_baselines_cost_by_the_methods():
    assert gain([Reach(8.0)], [Reach(2.0)]).ratio == 4.0


@pytest.mark.parametrize(
    ("baseline", "method", "bound"),
    [(Reach(8.0, ">"), Reach(2.0), ">"), (Reach(8.0), Reach(9.0, ">"), "<"), (Reach(8.0), Reach(1.0, "<"), ">")],
)
def test_censoring_turns_a_speed_up_into_a_bound(baseline: Reach, method: Reach, bound: str):
    assert gain([baseline], [method]).bound == bound


def test_two_targets_that_were_not_reached_say_nothing_about_speed():
    assert compare_costs([Reach(8.0, ">")], [Reach(8.0, ">")]) is None


def interval(baseline: list[Reach], method: list[Reach]) -> tuple[float, float]:
    found = gain(baseline, method).interval
    assert found is not None
    return found


def test_one_seed_has_no_interval():
    assert gain([Reach(8.0)], [Reach(2.0), Reach(3.0)]).interval is None


def test_the_interval_is_welchs_t_interval_of_logarithms():
    """By hand for logs (0, 1, 2) and (0, 1, 2): 4 degrees of freedom, t = 2.776445, standard error sqrt(2 / 3)."""
    side = [Reach(math.exp(power)) for power in (0, 1, 2)]
    low, high = interval(side, side)
    assert math.log(high) == pytest.approx(2.776445 * math.sqrt(2 / 3), rel=1e-6)
    assert low == pytest.approx(1 / high)


def test_the_uncertainty_of_interpolation_widens_the_interval_of_equal_seeds():
    low, high = interval([Reach(8.0, errors=(0.03,))] * 3, [Reach(2.0, errors=(-0.01, -0.02))] * 3)
    assert math.log(high / 4) == pytest.approx(0.05, abs=1e-6)
    assert math.log(low / 4) == pytest.approx(-0.05, abs=1e-6)


def test_errors_of_either_sign_cancel_over_seeds_but_not_over_evaluations():
    assert share_error([(0.2,), (-0.2,)]) == 0.0
    assert share_error([(0.2, -0.1), (0.2, -0.1)]) == pytest.approx(0.2)


def test_a_seed_that_did_not_reach_the_target_opens_the_interval():
    low, high = interval([Reach(8.0), Reach(8.0), Reach(9.0, ">")], [Reach(2.0), Reach(2.1), Reach(1.9)])
    assert low < 4.0
    assert math.isinf(high)


def test_a_method_that_met_the_target_at_its_first_evaluation_has_no_upper_end():
    low, high = interval([Reach(8.0)] * 3, [Reach(2.0, "<")] * 3)
    assert low == pytest.approx(4.0)
    assert math.isinf(high)


def test_when_neither_side_reached_the_target_there_is_no_interval():
    assert find_interval([Reach(8.0, ">")] * 3, [Reach(8.0, ">")] * 3, 1.0) is None


@pytest.mark.parametrize("seeds", [3, 5])
@pytest.mark.parametrize("shape", sorted(SHAPES))
def test_the_interval_covers_a_planted_speed_up_as_often_as_the_tables_say(shape: str, seeds: int):
    seen, _ = simulate_speedups(np.random.default_rng(0), Setting(shape, 0.02, True, seeds, 2), studies=60)
    assert seen.covered / seen.intervals >= 0.9


@pytest.mark.parametrize("shape", sorted(SHAPES))
def test_planted_speed_ups_are_read_within_two_per_cent_without_noise(shape: str):
    _, readings = simulate_speedups(np.random.default_rng(0), Setting(shape, 0.0, True, 3, 1), studies=60)
    assert len(readings) == 5
    assert all(abs(reading - 1) < 0.02 for reading in readings.values())


@pytest.mark.parametrize("step_cost", [0.58, 0.7, 1.28, 1.5])
def test_a_method_with_the_baselines_own_curve_is_seldom_called_different(step_cost: float):
    """Nominal 10 %; 100 studies of each shape give 13 % or more in one of 50 cases."""
    rng = np.random.default_rng(0)
    called = [simulate_nulls(rng, Setting(shape, 0.0, True, 3, 2), step_cost, 100) for shape in SHAPES]
    assert np.mean(called) <= 0.13


def test_the_permutation_chance_of_three_separate_seeds_is_one_in_ten():
    assert permute([1.0, 1.1, 1.2], [2.0, 2.1, 2.2]) == pytest.approx(0.1)
    assert find_least_chance(3, 3) == pytest.approx(0.1)


def test_a_difference_that_interpolation_alone_can_have_made_counts_for_nothing():
    sides = [1.0, 1.001, 1.002], [1.01, 1.011, 1.012]
    assert permute(*sides) == pytest.approx(0.1)
    assert permute(*sides, slack=0.02) == 1.0


def test_the_permutation_chance_counts_every_split_by_hand():
    one, other = [1.0, 4.0, 3.0], [2.0, 9.0]
    logs = np.log([*one, *other])
    gaps = []
    for picked in itertools.combinations(range(5), 3):
        rest = [place for place in range(5) if place not in picked]
        gaps.append(abs(logs[list(picked)].mean() - logs[rest].mean()))
    seen = abs(np.log(one).mean() - np.log(other).mean())
    assert permute(one, other) == pytest.approx(np.mean([gap >= seen - 1e-12 for gap in gaps]))


def test_many_seeds_are_sampled_and_agree_with_the_normal_law():
    rng = np.random.default_rng(2)
    far = permute(rng.lognormal(0, 0.1, 20).tolist(), rng.lognormal(1, 0.1, 20).tolist())
    near = permute(rng.lognormal(0, 0.1, 20).tolist(), rng.lognormal(0, 0.1, 20).tolist())
    assert far < 0.001 < near


def test_the_ladder_holds_the_baselines_final_value_and_round_numbers_between_best_and_start():
    targets = choose_ladder(final=3.4, start=85.0, best=2.6)
    assert 3.4 in targets
    assert targets == sorted(targets, reverse=True)
    assert all(2.6 <= target < 85.0 for target in targets)
    assert len(targets) == 5
