"""Forecasts: intervals that hold planted laws, crossings, what is not to be told, and fans without lines."""

from pathlib import Path

import numpy as np
import pytest
from made_runs import write_run

from diffx.compare.__main__ import main
from diffx.compare.ahead.forecast import forecast_method
from diffx.compare.ahead.law import DRIFT, find_drift
from diffx.compare.shown.forecast import forecast_study, order, tabulate_forecasts, write_forecast
from diffx.compare.shown.pictures.figure import draw
from diffx.compare.study import Study, make_study
from diffx.curves.curve import Curve
from diffx.errors import DiffxError

COSTS = tuple(2.0 ** (0.5 * place) for place in range(8))
METRIC = "fd_embedded_sup_1k"
FEW = 100  # draws where the order alone is asked


def saturating(floor: float, drop: float, rate: float, noise: float = 0.0, seed: int = 0):
    """A curve that follows the law exactly, or with noise on every evaluation."""
    rng = np.random.default_rng(seed)
    return lambda cost: (floor + drop * cost**-rate) * float(np.exp(rng.normal(0, noise)))


def write_seeds(
    root: Path, label: str, floor: float, drop: float, rate: float, costs: tuple[float, ...] = COSTS
) -> None:
    for seed in range(3):
        write_run(root, label, seed, {METRIC: saturating(floor, drop, rate, 0.03, seed)}, costs)


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Study:
    """Plain's three seeds, which end at 11.3, and their forecast for 64."""
    root = tmp_path_factory.mktemp("plain")
    write_seeds(root, "plain", 5.0, 60.0, 0.9)
    return forecast_study(make_study([root]), 64.0)


def test_a_planted_law_lies_within_the_interval_of_its_forecast(study: Study) -> None:
    (one,) = study.forecasts
    low, middle, high = one.ends
    truth = 5.0 + 60.0 * 64**-0.9
    assert low < truth < high
    assert middle == pytest.approx(truth, rel=0.25)


def test_an_interval_widens_with_the_budget(study: Study) -> None:
    (one,) = study.forecasts
    width = np.log(one.read(0.975) / one.read(0.025))
    assert width[-1] > 2 * width[0]


def test_two_methods_with_one_curve_are_not_to_be_told_apart(tmp_path: Path) -> None:
    write_seeds(tmp_path, "plain", 5.0, 60.0, 0.9)
    write_seeds(tmp_path, "tread", 5.0, 60.0, 0.9)
    study = forecast_study(make_study([tmp_path]), 32.0, FEW)
    assert "whether tread would be below plain is not to be told from these runs" in write_forecast(
        study, study.results[0]
    )


def test_a_crossing_beyond_the_runs_is_found_within_its_interval(tmp_path: Path) -> None:
    long = tuple(2.0 ** (0.5 * place) for place in range(13))
    write_seeds(tmp_path, "plain", 30.0, 60.0, 1.5, long)
    write_seeds(tmp_path, "repa", 1.0, 600.0, 0.7, long)  # above at the end of the runs, far below at 640
    study = forecast_study(make_study([tmp_path]), 640.0, FEW)
    (found,) = order(study, study.results[0])
    costs = np.geomspace(60, 640, 2000)
    truth = costs[np.flatnonzero(1 + 600 * costs**-0.7 < 30 + 60 * costs**-1.5)[0]]
    assert found.told
    assert found.crossing is not None
    assert found.crossing[0] < truth < found.crossing[2]


def test_a_budget_within_the_runs_is_refused_in_a_sentence(tmp_path: Path) -> None:
    write_seeds(tmp_path, "plain", 5.0, 60.0, 0.9)
    with pytest.raises(DiffxError, match="lies within the runs, which go to 11"):
        forecast_study(make_study([tmp_path]), 2.0)


def test_two_evaluations_are_no_forecast_and_a_remark_says_so(tmp_path: Path) -> None:
    write_run(tmp_path, "plain", 0, {METRIC: saturating(5, 60, 0.9)}, (1.0, 2.0))
    study = forecast_study(make_study([tmp_path]), 8.0)
    assert study.forecasts == ()
    assert tabulate_forecasts(study, study.results[0]) == []
    assert any(line.startswith("no forecast for plain") for line in study.remarks)


def test_evaluations_of_several_seeds_do_not_add_up_to_those_of_one(tmp_path: Path) -> None:
    for seed, costs in enumerate(((1.0, 4.0), (2.0, 8.0))):
        write_run(tmp_path, "plain", seed, {METRIC: saturating(5, 60, 0.9)}, costs)
    found = forecast_study(make_study([tmp_path]), 16.0)
    assert found.forecasts == ()
    assert any("it takes 3 evaluations of every seed" in line for line in found.remarks)


def test_a_forecast_is_drawn_as_bands_and_no_line_goes_beyond_the_runs(study: Study) -> None:
    axis = draw(study, "", ahead=True).axes[0]
    drawn = [line for line in axis.lines if len(line.get_xdata()) > 2]
    assert max(max(line.get_xdata()) for line in drawn) <= COSTS[-1]
    assert max(band.get_paths()[0].vertices[:, 0].max() for band in axis.collections) == pytest.approx(64.0)


def test_what_runs_missed_of_their_own_later_evaluations_widens_a_forecast() -> None:
    lawful = Curve(COSTS, tuple(5 + 60 * cost**-0.9 for cost in COSTS))
    breaking = Curve(COSTS, tuple((5 + 60 * cost**-0.9) * (0.3 if cost > 6 else 1.0) for cost in COSTS))
    assert find_drift([[lawful]], 0.0) < DRIFT < find_drift([[breaking]], 0.0)


def test_the_drift_widens_a_forecast_by_the_root_of_doublings() -> None:
    lawful = [Curve(COSTS, tuple(5 + 60 * cost**-0.9 for cost in COSTS))]
    end = COSTS[-1]
    narrow, wide = (forecast_method("plain", METRIC, lawful, 0.0, drift, 16 * end, 60) for drift in (0.0, 1.0))
    added = np.std(np.log(wide.draws) - np.log(narrow.draws), axis=0)
    assert added[0] == pytest.approx(0)
    assert added[-1] == pytest.approx(2.0, rel=0.25)  # four doublings


def test_the_command_writes_the_picture_of_the_forecast(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_seeds(tmp_path / "runs", "plain", 5.0, 60.0, 0.9)
    assert main([str(tmp_path / "runs"), "-o", str(tmp_path / "out"), "--forecast", "40"]) == 0
    assert (tmp_path / "out" / "forecast.png").stat().st_size > 10_000
    assert "Forecast: FD embedded sup" in (tmp_path / "out" / "compare.md").read_text()
    assert "forecast, not measured" in capsys.readouterr().out
