"""What the pictures show: names that can be read, rings on their lines, one axis for all."""

import itertools
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from made_runs import falling, write_run
from matplotlib.axes import Axes

from diffx.compare.shown.pictures import figure
from diffx.compare.shown.pictures.panel import make_panel
from diffx.compare.shown.pictures.style import BASELINE, COLOURS, darken, find_contrast, set_ticks
from diffx.compare.study import make_study

METRIC = "fd_embedded_sup_1k"


def drawn(root: Path) -> Axes:
    return figure.draw(make_study([root]), "").axes[0]


def texts(axis: Axes) -> list[str]:
    return [text.get_text() for text in axis.texts]


@given(st.lists(st.floats(0, 1), min_size=1, max_size=9))
def test_names_right_of_a_panel_are_apart_and_inside(wanted: list[float]):
    placed = figure.spread_heights(dict(enumerate(wanted)), 0.1)
    ordered = sorted(placed.values())
    assert all(high - low >= 0.1 - 1e-9 for low, high in itertools.pairwise(ordered))
    assert ordered[0] >= -1e-9
    assert ordered[-1] <= 1 + 1e-9


def test_names_that_are_far_apart_stay_at_their_lines():
    assert figure.spread_heights({0: 0.9, 1: 0.1}, 0.05) == pytest.approx({0: 0.9, 1: 0.1})


def test_a_method_has_its_speed_up_at_its_ring_and_an_arrow_comes_from_the_baseline(root: Path):
    write_run(root, "plain", curves={METRIC: falling(100, 0.8)})
    write_run(root, "fast", curves={METRIC: falling(100, 0.8, sooner=2)})
    axis = drawn(root)
    assert "2.0×" in texts(axis)
    (ring,) = [line for line in axis.lines if line.get_marker() == "o" and line.get_markerfacecolor() == "white"]
    assert ring.get_xdata()[0] == pytest.approx(4.0)
    (arrow,) = [text for text in axis.texts if text.get_text() == ""]
    assert arrow.xy == pytest.approx((4.0, 100 * 8**-0.8))  # type: ignore[attr-defined]
    assert arrow.xyann[0] == pytest.approx(8.0)  # type: ignore[attr-defined]


def test_speed_ups_of_crowded_rings_stand_behind_the_names(root: Path):
    write_run(root, "plain", curves={METRIC: falling(100, 0.8)})
    for label, sooner in (("a", 2.0), ("b", 2.05)):
        write_run(root, label, curves={METRIC: falling(100, 0.8, sooner)})
    assert {"a  2.0×", "b  2.0×"} <= set(texts(drawn(root))) or {"a  2.0×", "b  2.1×"} <= set(texts(drawn(root)))


def test_a_method_that_began_beyond_the_baselines_end_has_the_bound_behind_its_name(root: Path):
    write_run(root, "plain", curves={METRIC: falling(100, 0.8)})
    write_run(root, "far", curves={METRIC: falling(10, 0.8)})
    assert "far  > 8.0×" in texts(drawn(root))


def test_a_ring_lies_on_the_drawn_line(root: Path):
    """The line bends between evaluations as the tables are read."""
    write_run(root, "plain", curves={METRIC: falling(100, 0.8)}, costs=(1.0, 3.0, 8.0))
    write_run(root, "fast", curves={METRIC: lambda cost: 2 + 80 / cost}, costs=(1.0, 3.0, 8.0))
    trace = make_panel(make_study([root]), METRIC).traces[1]
    assert trace.ring is not None
    height = np.exp(np.interp(np.log(trace.ring.x), np.log(trace.line.x), np.log(trace.line.mean)))
    assert height == pytest.approx(100 * 8**-0.8, rel=2e-3)


def test_real_images_far_below_do_not_squeeze_the_curves(root: Path):
    write_run(root, "plain", facts={"reference": {"floor": {METRIC: 0.01}}})
    axis = drawn(root)
    assert axis.get_ylim()[0] > 1
    assert "real images 0.01, below the panel" in texts(axis)


def test_the_band_of_seeds_has_the_colour_of_its_line(root: Path):
    write_run(root, "plain")
    for seed in range(2):
        write_run(root, "repa", seed, {METRIC: falling(90 + seed, 0.8)})
    (band,) = [part for part in drawn(root).collections if part.get_gid() == "curve-1-band"]
    assert tuple(band.get_facecolor()[0][:3]) == pytest.approx(
        tuple(int(COLOURS[0][place : place + 2], 16) / 255 for place in (1, 3, 5))
    )


def test_a_distance_that_is_never_positive_is_drawn_on_a_linear_axis(root: Path):
    write_run(root, "plain", curves={"kid_1k": lambda cost: -cost})
    assert drawn(root).get_yscale() == "linear"


def test_the_line_of_a_method_is_the_mean_of_its_seeds_as_they_are_read(root: Path):
    for seed, start in enumerate((80.0, 120.0)):
        write_run(root, "plain", seed, {METRIC: falling(start, 0.8)})
    line = make_panel(make_study([root]), METRIC).traces[0].line
    assert line.mean == pytest.approx(100 * line.x**-0.8)
    assert line.high == pytest.approx(120 * line.x**-0.8)


@pytest.mark.parametrize("span", [0.1, 0.3, 0.5, 0.79, 0.81, 1.5, 2.4])
def test_numbers_along_the_cost_do_not_run_into_each_other(root: Path, span: float):
    """The demo's costs, 0.005 to 0.03, had nine numbers in a row of which none could be read."""
    write_run(root, "plain", curves={METRIC: falling(100, 0.8), "fd_embedded_ssl_1k": falling(100, 0.8)})
    picture = figure.draw(make_study([root]), "")
    axis = picture.axes[0]
    axis.set_xlim(0.005, 0.005 * 10**span)
    set_ticks(axis)
    picture.canvas.draw()
    low, high = axis.get_xlim()
    shown = [label for label, x in zip(axis.get_xticklabels(), axis.get_xticks(), strict=True) if low <= x <= high]
    boxes = sorted((label.get_window_extent() for label in shown), key=lambda box: box.x0)
    assert all(left.x1 < right.x0 for left, right in itertools.pairwise(boxes))


@pytest.mark.parametrize("scale", ["log", "linear"])
def test_texts_in_a_panel_stand_beside_their_rings_and_do_not_overlap(root: Path, scale: str):
    """Five methods whose rings lie along the goal, of which one is near its left end where its name stands."""
    for label, sooner in (("plain", 1.0), ("a", 6.0), ("b", 2.6), ("c", 1.6), ("d", 1.14)):
        facts = {"reference": {"floor": {METRIC: 15.0}}}
        write_run(root, label, curves={METRIC: falling(100, 0.8, sooner)}, facts=facts)
    picture = figure.draw_alone(make_panel(make_study([root]), METRIC), scale)
    axis = picture.axes[0]
    picture.canvas.draw()
    inside = [text for text in axis.texts if str(text.get_gid()).endswith(("-factor", "goal-name", "floor-name"))]
    boxes = [text.get_window_extent() for text in inside]
    assert [text.get_text() for text in inside[:4]] == ["6.0×", "2.6×", "1.6×", "1.1×"]
    assert not any(one.overlaps(other) for one, other in itertools.combinations(boxes, 2))
    for text, box in zip(inside, boxes, strict=True):
        x, y = axis.transData.transform(text.xy)  # type: ignore[attr-defined]
        assert max(box.x0 - x, x - box.x1, box.y0 - y, y - box.y1) < 12  # points to its ring


@pytest.mark.parametrize("colour", [*COLOURS, BASELINE])
def test_names_are_written_in_colours_that_can_be_read_on_white(colour: str):
    assert find_contrast(darken(colour)) >= 4.5
    assert find_contrast(colour) < 4.6 or darken(colour) == colour.lower()


def test_every_evaluation_of_a_line_has_a_dot(root: Path):
    for seed in range(2):
        write_run(root, "plain", seed, {METRIC: falling(100 + seed, 0.8)})
    (dots,) = [line for line in drawn(root).lines if line.get_gid() == "curve-0-dots"]
    assert list(dots.get_xdata()) == [1.0, 2.0, 4.0, 8.0]


def test_shares_stand_on_an_axis_from_zero_where_a_line_at_zero_stays_in_the_panel(root: Path):
    more = {"plain": lambda cost: 0.02 * cost, "none": lambda cost: 0.01 if cost < 8 else 0.0}
    for label, curve in more.items():
        curves = {METRIC: falling(100, 0.8), "align_all": curve}
        write_run(root, label, curves=curves, facts={"reference": {"floor": {"align_all": 0.98}}})
    (axis,) = figure.draw_alignment(make_study([root]), "").axes
    assert axis.get_yscale() == "linear"
    assert axis.get_ylim()[0] == 0
    names = {text.get_text(): text for text in axis.texts}
    assert 0 <= axis.transAxes.inverted().transform(axis.transData.transform(names["none"].xy))[1] <= 1
    assert "real images 0.98, above the panel" in names


def test_a_score_of_which_more_is_better_and_that_is_no_share_keeps_its_own_range(root: Path):
    write_run(root, "plain", curves={METRIC: falling(100, 0.8), "clip_score": lambda cost: 25 + 0.5 * cost})
    (axis,) = figure.draw_alignment(make_study([root]), "").axes
    assert axis.get_ylim()[0] > 20
