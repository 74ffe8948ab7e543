"""The planner: token counts, the order at one depth, and the sets it refuses."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from diffx.backbone import Backbone, DiT, MDTBackbone
from diffx.errors import DiffxError
from diffx.planner import Action, Plan, make_plan
from diffx.plugin import Plugin, Span

BLOCKS, TOKENS = 6, 16


class Reader(Plugin):
    def __init__(self, *reads: int) -> None:
        super().__init__(weight=1.0)
        self.reads = reads

    def loss(self, seen, out, aux):
        return sum(tokens.x.square().mean() for tokens in seen.values())


class Narrow(Plugin):
    def __init__(self, *span, view: str = "main", **save) -> None:
        super().__init__()
        self.span, self.view = Span(*span, **save), view


def backbone(**options) -> Backbone:
    with torch.device("meta"):
        return MDTBackbone.tiny(**options) if options else DiT.tiny()


def plan(provided=(), skips=False, **plugins: Plugin) -> Plan:
    options = {"decoder_layers": 2, "skips": True} if skips else {}
    return make_plan(backbone(**options), plugins, provided)


def refusal(**arguments) -> str:
    with pytest.raises(DiffxError) as error:
        plan(**arguments)
    return str(error.value)


def test_with_no_plugin_there_is_one_view_and_nothing_happens():
    (view,) = plan().views
    assert view.name == "main"
    assert not any(view.actions)
    assert view.tokens == (TOKENS,) * (BLOCKS + 1)


def test_a_span_narrows_from_its_start_to_its_stop():
    view = plan(a=Narrow(1, 4, 0.5)).views[0]
    assert view.tokens == (16, 8, 8, 8, 16, 16, 16)
    assert (view.entering["a"], view.kept["a"]) == (16, (8,))


def test_a_span_may_reach_the_head_and_is_restored_before_it():
    view = plan(a=Narrow(0, BLOCKS, 0.75)).views[0]
    assert view.tokens == (4,) * BLOCKS + (16,)
    assert view.actions[BLOCKS] == (Action("restore", "a"),)


def test_nested_spans_narrow_what_the_outer_one_left():
    view = plan(outer=Narrow(1, 5, 0.5), inner=Narrow(2, 4, 0.5)).views[0]
    assert view.tokens == (16, 8, 4, 4, 8, 16, 16)
    assert view.entering == {"outer": 16, "inner": 8}


def test_disjoint_spans_each_narrow_the_whole_set():
    assert plan(a=Narrow(0, 2, 0.5), b=Narrow(3, 5, 0.75)).views[0].tokens == (8, 8, 16, 4, 4, 16, 16)


def test_of_spans_that_start_together_the_longer_is_the_outer_one():
    view = plan(short=Narrow(1, 3, 0.5), long=Narrow(1, 5, 0.5)).views[0]
    assert view.entering == {"long": 16, "short": 8}
    assert view.tokens == (16, 4, 4, 8, 8, 16, 16)


def test_of_spans_that_stop_together_the_inner_one_is_restored_first():
    view = plan(outer=Narrow(1, 4, 0.5), inner=Narrow(2, 4, 0.5)).views[0]
    assert view.actions[4] == (Action("restore", "inner"), Action("restore", "outer"))


def test_at_one_depth_the_order_is_restore_read_save_drop():
    view = plan(after=Narrow(3, 5, 0.5), reader=Reader(3), before=Narrow(1, 3, 0.5)).views[0]
    assert [kind for kind, _ in view.actions[3]] == ["restore", "read", "save", "drop"]


def test_a_delayed_route_saves_early_and_drops_late():
    view = plan(route=Narrow(4, 6, 0.5, save=1)).views[0]
    assert view.actions[1] == (Action("save", "route"),)
    assert view.actions[4] == (Action("drop", "route"),)
    assert view.tokens == (16, 16, 16, 16, 8, 8, 16)


def test_a_delayed_route_may_save_inside_and_drop_inside_the_same_span():
    assert plan(outer=Narrow(0, 6, 0.5), route=Narrow(3, 5, 0.5, save=1)).views[0].tokens[3] == 4


def test_a_route_that_saves_outside_a_span_and_drops_inside_is_refused():
    message = refusal(outer=Narrow(2, 6, 0.5), route=Narrow(3, 5, 0.5, save=1))
    assert "plugins.outer" in message
    assert "plugins.route" in message


@pytest.mark.parametrize("names", [("a", "b"), ("b", "a")])
def test_crossing_spans_are_refused_naming_both_and_their_blocks(names):
    spans = dict(zip(names, (Narrow(1, 4, 0.5), Narrow(2, 5, 0.5)), strict=True))
    message = refusal(**spans)
    for expected in ("plugins.a", "plugins.b", "blocks 1 to 3", "blocks 2 to 4"):
        assert expected in message


def test_spans_of_different_views_may_cross():
    views = plan(a=Narrow(1, 4, 0.5), b=Narrow(2, 5, 0.5, view="masked")).views
    assert [view.name for view in views] == ["main", "masked"]


def test_the_main_view_comes_first_and_is_there_even_when_no_plugin_is_in_it():
    assert [view.name for view in plan(a=Narrow(1, 4, 0.5, view="masked")).views] == ["main", "masked"]


@pytest.mark.parametrize("depth", [-1, BLOCKS + 1])
def test_a_read_outside_the_backbone_is_refused(depth):
    message = refusal(repa=Reader(depth))
    assert "plugins.repa" in message
    assert f"block {depth}" in message


def test_a_read_before_the_head_is_allowed():
    assert plan(repa=Reader(BLOCKS)).views[0].actions[BLOCKS] == (Action("read", "repa"),)


@pytest.mark.parametrize("span", [(-1, 3), (3, 3), (4, 3), (2, BLOCKS + 1)])
def test_a_span_outside_the_backbone_is_refused(span):
    assert "plugins.tread" in refusal(tread=Narrow(*span, 0.5))


def test_a_state_saved_after_the_start_is_refused():
    assert "plugins.tread" in refusal(tread=Narrow(2, 4, 0.5, save=3))


@pytest.mark.parametrize("rate", [-0.1, 1.0, 1.5, float("nan")])
def test_a_rate_outside_zero_to_one_is_refused(rate):
    assert "plugins.tread" in refusal(tread=Narrow(2, 4, rate))


def test_a_rate_that_keeps_no_token_is_refused_with_the_count():
    assert "0 of 16" in refusal(tread=Narrow(2, 4, 0.99))


def test_a_span_inside_one_whose_size_changes_every_step_is_refused():
    message = refusal(outer=Narrow(0, 6, (0.25, 0.5)), inner=Narrow(2, 4, 0.5))
    assert "plugins.outer" in message
    assert "plugins.inner" in message


def test_the_table_shows_the_mean_of_a_rate_that_varies():
    view = plan(a=Narrow(1, 3, (0.25, 0.5))).views[0]
    assert view.kept["a"] == (12, 8)
    assert view.tokens[1] == 10


def test_a_weight_without_a_loss_is_refused():
    class Silent(Plugin):
        pass

    assert "plugins.silent.weight" in refusal(silent=Silent(weight=0.5))


def test_a_need_that_nobody_provides_is_refused_naming_what_there_is():
    plugin = Reader(1)
    plugin.needs = ("features/unknown",)
    message = refusal(repa=plugin, provided=["image"])
    for expected in ("plugins.repa", "features/unknown", "image"):
        assert expected in message


def test_a_need_of_two_plugins_is_listed_once():
    a, b = Reader(1), Reader(2)
    a.needs = b.needs = ("image",)
    assert plan(["image"], a=a, b=b).needs == ("image",)


@pytest.mark.parametrize("span", [(1, 2), (2, 4), (3, 6), (0, 6), (1, 4)])
def test_a_span_that_a_skip_crosses_is_refused(span):
    message = refusal(skips=True, route=Narrow(*span, 0.5))
    assert "plugins.route" in message
    assert "skip" in message


@pytest.mark.parametrize("span", [(0, 4), (1, 3)])
def test_a_span_with_both_ends_of_every_skip_on_one_side_is_allowed(span):
    assert plan(skips=True, mdt=Narrow(*span, 0.5)).views[0].tokens[span[0]] == 8


@given(present=st.integers(1, 1024), tenths=st.integers(0, 9))
def test_the_number_kept_is_exact_for_decimal_rates(present, tenths):
    assert Span(0, 1, tenths / 10).kept(present) == (present * (10 - tenths) // 10,)


span = st.tuples(st.integers(0, BLOCKS - 1), st.integers(1, BLOCKS)).filter(lambda s: s[0] < s[1])


@given(st.lists(span, min_size=2, max_size=4))
def test_any_spans_either_nest_or_are_refused_as_crossing(spans):
    crossing = any(a[0] < b[0] < a[1] < b[1] for a in spans for b in spans)
    plugins = {f"p{i}": Narrow(*s, 0.25) for i, s in enumerate(spans)}
    if crossing:
        assert "cross" in refusal(**plugins)
    else:
        tokens = plan(**plugins).views[0].tokens
        inside = [sum(start <= depth < stop for start, stop in spans) for depth in range(BLOCKS + 1)]
        assert [{0: 16, 1: 12, 2: 9, 3: 6, 4: 4}[n] for n in inside] == list(tokens)
