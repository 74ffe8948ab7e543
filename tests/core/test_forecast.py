"""The time left of a run whose evaluations come a doubling of steps apart is right from the first evaluation on."""

import pytest

from diffx.run.forecast import Forecast

STEP, EVALUATION = 0.5, 30.0
STEPS = [50 * 2**k for k in range(10)]


def forecasts(budget: float | None) -> list[tuple[float, float]]:
    """(seconds left as foreseen, as it came), after every step of a run of 1000 steps of half a second."""
    forecast, now, seen = Forecast(1000 if budget is None else 10**9, budget, STEPS), 0.0, []
    for step in range(1, 1001):
        now += STEP if step > 1 else 20.0  # the first one compiles
        forecast.after_step(step, step / 1000, now)
        seen.append((forecast.left().seconds, now))
        if step in STEPS or step == 1000:
            now += EVALUATION
            forecast.after_evaluation(step, EVALUATION)
    return [(left, now - then) for left, then in seen if left is not None]


@pytest.mark.parametrize("budget", [None, 1.0], ids=["steps", "budget"])
def test_the_time_left_does_not_jump_where_evaluations_come(budget: float | None) -> None:
    after_the_first = forecasts(budget)[50:]
    assert all(foreseen == pytest.approx(came, abs=STEP + 1e-6) for foreseen, came in after_the_first)


def test_before_an_evaluation_was_timed_they_are_counted_beside_the_time() -> None:
    forecast = Forecast(1000, None, STEPS)
    assert str(forecast.left()) == "starting"
    for step in (1, 2):
        forecast.after_step(step, 0.0, step * 60.0)
    assert str(forecast.left()) == "16:38:00 + 6 evaluations left"


def test_an_evaluation_under_way_counts_for_what_is_not_drawn_yet() -> None:
    forecast = Forecast(100, None, [50])
    for step in range(1, 51):
        forecast.after_step(step, 0.0, float(step))
    forecast.after_evaluation(50, 10.0)
    for step in range(51, 101):
        forecast.after_step(step, 0.0, float(step) + 10)
    assert forecast.left(0.25).seconds == pytest.approx(7.5)


def test_the_first_evaluation_which_makes_networks_ready_does_not_speak_for_later_ones() -> None:
    forecast = Forecast(4, None, [1, 2])
    for step, seconds in ((1, 100.0), (2, 10.0)):
        forecast.after_step(step, 0.0, step + 100.0 * (step - 1))
        forecast.after_evaluation(step, seconds)
    assert forecast.left().seconds == pytest.approx(2 * 1 + 10)


def test_a_run_that_is_over_has_nothing_left() -> None:
    forecast = Forecast(2, None, [])
    for step in (1, 2):
        forecast.after_step(step, 0.0, float(step))
    forecast.after_evaluation(2, 5.0)
    assert forecast.left().seconds == 0
