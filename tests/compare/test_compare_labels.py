"""Names and speed-ups in the figure: each readable, none on another."""

import itertools
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from made_runs import falling, write_run
from matplotlib.axes import Axes
from matplotlib.figure import Figure

import diffx.compare.figure as figure
from diffx.compare.labels import Box, Line, Ring, clear, crowded, dense, end_labels, ring_labels
from diffx.compare.study import study

METRIC = "fd_embedded_sup_1k"


def panel() -> Axes:
    axis = Figure(figsize=(5, 4)).subplots()
    axis.set(xscale="log", yscale="log", xlim=(1, 100), ylim=(1, 100))
    return axis


def texts(axis: Axes) -> list[str]:
    return [text.get_text() for text in axis.texts]


@settings(deadline=None, max_examples=40)
@given(st.lists(st.floats(0.1, 1.8), min_size=1, max_size=4))
def test_speed_ups_do_not_cover_each_other_unless_their_rings_are_crowded(powers: list[float]):
    axis = panel()
    rings = [Ring(10**power, "7.5×", "red") for power in powers]
    if crowded(axis, rings, 10.0):
        return
    boxes = ring_labels(axis, rings, 10.0, [])
    assert not any(one.meets(other) for one, other in itertools.combinations(boxes, 2))


def test_a_name_stands_at_its_lines_end_where_there_is_room():
    axis, x = panel(), np.array([1.0, 10.0])
    end_labels(axis, [Line("tread", "red", x, np.array([50.0, 5.0]))], [])
    (name,) = axis.texts
    assert name.get_text() == "tread"
    assert 0.5 < name.xy[0] < 0.9


def test_a_name_without_room_stands_right_of_the_panel_tied_to_its_line():
    axis = panel()
    end_labels(axis, [Line("tread", "red", np.array([1.0, 99.0]), np.array([50.0, 5.0]))], [])
    (name,) = axis.texts
    assert name.arrow_patch is not None


def test_a_label_is_not_put_on_a_line_or_another_label():
    axis, box = panel(), Box(50, 50, 80, 60)
    empty = np.empty((0, 2))
    assert clear(axis, box, empty, [])
    assert not clear(axis, box, np.array([[60.0, 55.0]]), [])
    assert not clear(axis, box, empty, [Box(70, 55, 90, 65)])
    assert not clear(axis, Box(-5, 50, 25, 60), empty, [])


def test_a_line_is_sampled_along_its_whole_length():
    path = dense(np.array([[0.0, 0.0], [30.0, 40.0]]))
    assert np.hypot(*np.diff(path, axis=0).T) == pytest.approx(1.0)
    assert len(path) == 51


def drawn(root: Path) -> Axes:
    return figure.draw(study([root]), "").axes[0]


def test_a_method_has_its_speed_up_at_its_ring_and_an_arrow_comes_from_the_baseline(root: Path):
    write_run(root, "plain", curves={METRIC: falling(100, 0.2)})
    write_run(root, "fast", curves={METRIC: falling(100, 0.4)})
    axis = drawn(root)
    assert "2.0×" in texts(axis)
    (ring,) = [line for line in axis.lines if line.get_markerfacecolor() == "white"]
    assert ring.get_xdata()[0] == pytest.approx(4.0)
    (arrow,) = [text for text in axis.texts if text.get_text() == ""]
    assert arrow.xy == pytest.approx((4.0, 100 * np.exp(-1.6)))
    assert arrow.xyann[0] == pytest.approx(8.0)


def test_speed_ups_of_crowded_rings_stand_behind_the_names(root: Path):
    write_run(root, "plain", curves={METRIC: falling(100, 0.2)})
    for label, rate in (("a", 0.4), ("b", 0.41)):
        write_run(root, label, curves={METRIC: falling(100, rate)})
    assert {"a  2.0×", "b  2.0×"} <= set(texts(drawn(root))) or {"a  2.0×", "b  2.1×"} <= set(texts(drawn(root)))


def test_a_method_that_began_beyond_the_baselines_end_has_the_bound_behind_its_name(root: Path):
    write_run(root, "plain", curves={METRIC: falling(100, 0.2)})
    write_run(root, "far", curves={METRIC: falling(10, 0.2)})
    assert "far  > 8.0×" in texts(drawn(root))


def test_a_ring_lies_on_the_drawn_line(root: Path):
    """The line bends between evaluations as the interpolation of the tables does."""
    write_run(root, "plain", curves={METRIC: falling(100, 0.2)}, costs=(1.0, 8.0))
    write_run(root, "fast", curves={METRIC: falling(100, 0.4)}, costs=(1.0, 8.0))
    axis = drawn(root)
    (line,) = [one for one in axis.lines if one.get_color() == figure.COLOURS[0] and len(one.get_xdata()) > 2]
    heights = np.interp(4.0, line.get_xdata(), np.log(line.get_ydata()))
    assert np.exp(heights) == pytest.approx(100 * np.exp(-1.6))


def test_real_images_far_below_do_not_squeeze_the_curves(root: Path):
    write_run(root, "plain", facts={"reference": {"floor": {METRIC: 0.01}}})
    axis = drawn(root)
    assert axis.get_ylim()[0] > 1
    assert "real images 0.01, below the panel" in texts(axis)
