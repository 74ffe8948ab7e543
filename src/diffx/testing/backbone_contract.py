"""What every backbone must satisfy, as tests."""

from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._pytree import tree_map

from diffx.backbone import Backbone
from diffx.backbone.protocol import Condition, state_shape
from diffx.planner import MAIN, make_plan, make_view
from diffx.plugin import Aux, Batch, Plugin, Span
from diffx.step import walk_with_plugins
from diffx.testing.operations import Operations
from diffx.testing.tiny import (
    BATCH,
    TinyRun,
    example_condition,
    make_registered,
    randomised_anew,
    registered,
    stand_in_services,
    tiny_of,
    try_set,
)
from diffx.tokens import with_extra


class Shuffle(Plugin):
    """Drops nothing between two depths, and puts the grid's tokens in another order there."""

    def __init__(self, start: int, stop: int, grid: int, extra: int) -> None:
        super().__init__()
        self.span, self.grid, self.extra = Span(start, stop, 0.0), grid, extra

    def prepare(self, batch: Batch, rng: torch.Generator) -> Aux:
        order = torch.rand(BATCH, self.grid, generator=rng).argsort(1)
        return {"keep": with_extra(order, self.grid, self.extra)}


class BackboneContract:
    """What every backbone must satisfy. Subclass it in a test file and give `family`; override what does not suit."""

    family: Any
    """The class, with a classmethod tiny() that builds a network for the batch of diffx.testing.tiny_batch: a state of
    (4, 8, 8), ten classes or text of any sizes."""

    def backbone(self) -> Backbone:
        """A fresh tiny network, the same every time, with no weight left at zero."""
        return tiny_of(self.family)

    def beside(self) -> dict[str, Plugin]:
        """Plugins without which this backbone cannot be trained: those that bring its further streams."""
        return {}

    def condition(self, net: Backbone) -> Condition:
        """A condition for each sample of the batch."""
        return example_condition(net, torch.Generator().manual_seed(3))

    def inputs(self, net: Backbone) -> tuple[Tensor, Tensor, Condition]:
        """A state, times and a condition for each sample."""
        x = torch.randn(BATCH, *state_shape(net), generator=torch.Generator().manual_seed(4))
        return x, torch.linspace(0.1, 0.9, BATCH), self.condition(net)

    def start(self, **plugins: Plugin) -> TinyRun:
        """A run of `plugins` and of those that must stand beside."""
        net, members = self.backbone(), {**self.beside(), **plugins}
        return TinyRun(members, net, stand_in_services(members.values(), net))

    @torch.no_grad()
    def test_the_prediction_is_shaped_as_the_state_and_is_not_nothing(self) -> None:
        net = self.backbone()
        x, t, y = self.inputs(net)
        out = net(x, t, y)
        channels = state_shape(net)[0]
        assert out.shape[2:] == x.shape[2:]
        assert out.shape[1] in ((channels, 2 * channels) if len(net.streams) == 1 else (channels,))
        assert out.abs().max() > 0.01

    @torch.no_grad()
    def test_the_prediction_depends_on_the_state_the_time_and_the_condition(self) -> None:
        net = self.backbone()
        x, t, y = self.inputs(net)
        out = net(x, t, y)
        for other in (net(x.flip(0), t, y), net(x, t / 2, y), net(x, t, net.null_condition(y))):
            assert not torch.allclose(other, out, atol=1e-4)

    @torch.no_grad()
    def test_the_walk_with_no_plugin_runs_the_operations_of_forward_bit_for_bit(self) -> None:
        net = self.backbone()
        x, t, y = self.inputs(net)
        net(x, t, y)
        with Operations() as expected:
            wanted = net(x, t, y)
        with Operations() as walked:
            out, _ = walk_with_plugins(net, make_view(MAIN, net, {}), {}, x, t, y, {})
        assert torch.equal(out, wanted)
        assert walked.names == expected.names

    @torch.no_grad()
    def test_a_permutation_of_the_grids_tokens_with_their_places_changes_nothing(self) -> None:
        net = self.backbone()
        x, t, y = self.inputs(net)
        plugins: dict[str, Plugin] = {}
        for start, stop in stretches(net):
            counts = [count for border, count in net.tokens_after.items() if border <= start]
            extra = (counts[-1] if counts else net.grid_tokens + net.extra_tokens) - net.grid_tokens
            plugins[f"from_{start}"] = Shuffle(start, stop, net.grid_tokens, extra)
        view = make_view(MAIN, net, plugins)
        aux = {name: p.prepare({}, torch.Generator().manual_seed(5)) for name, p in plugins.items()}
        out, _ = walk_with_plugins(net, view, plugins, x, t, y, aux)
        torch.testing.assert_close(out, net(x, t, y), rtol=1e-4, atol=1e-5)

    @torch.no_grad()
    def test_the_tokens_are_as_many_as_the_plan_says(self) -> None:
        net = self.backbone()
        x, t, y = self.inputs(net)
        reader = Plugin()
        reader.reads, reader.reads_extra = tuple(range(net.wide_blocks + 1)), True
        view = make_view(MAIN, net, {"reader": reader})
        _, seen = walk_with_plugins(net, view, {"reader": reader}, x, t, y, {"reader": {}})
        before = (net.grid_tokens + net.extra_tokens, *view.tokens)  # a read comes before the switch of its depth
        assert [tokens.x.shape[1] for tokens in seen["reader"].values()] == list(before[: net.wide_blocks + 1])
        assert all(tokens.x.shape[2] == net.hidden_size for tokens in seen["reader"].values())

    @torch.no_grad()
    def test_one_sample_alone_equals_it_in_a_batch(self) -> None:
        net = self.backbone()
        x, t, y = self.inputs(net)
        together = net(x, t, y)
        for k in range(BATCH):
            alone = net(x[k : k + 1], t[k : k + 1], tree_map(lambda rows, k=k: rows[k : k + 1], y))
            torch.testing.assert_close(alone, together[k : k + 1], rtol=1e-4, atol=1e-5)

    def test_it_builds_on_meta_and_runs_there(self) -> None:
        with torch.device("meta"):
            net = self.family.tiny()
        assert all(parameter.is_meta for parameter in net.parameters())
        x, t, y = self.inputs(net)
        out = net(x.to("meta"), t.to("meta"), tree_map(lambda rows: rows.to("meta"), y))
        assert out.is_meta
        assert out.shape == self.backbone()(x, t, y).shape

    def test_every_trained_parameter_gets_a_gradient(self) -> None:
        run = self.start()
        run.losses(run.draws())["total"].backward()
        for key, parameter in run.backbone.named_parameters():
            if parameter.requires_grad:
                assert parameter.grad is not None, key
                assert parameter.grad.isfinite().all(), key
                assert parameter.grad.any(), key

    @pytest.mark.parametrize("name", registered())
    def test_a_registered_plugin_composes_or_is_refused_in_a_sentence(self, name: str) -> None:
        beside = self.beside()
        if name in beside:
            pytest.skip("it is always there")
        net, plugins = self.backbone(), {**beside, name: make_registered(name)}
        run, refusal = try_set(plugins, net, stand_in_services(plugins.values(), net))
        if run is None:
            assert name in refusal or type(net).__name__ in refusal
            assert refusal.endswith(".")
            return
        total = run.losses(run.draws())["total"]
        total.backward()
        assert total.isfinite()
        assert all(p.grad.isfinite().all() for p in run.backbone.parameters() if p.grad is not None)

    def test_a_run_with_nothing_but_what_must_stand_beside_it_has_a_plan(self) -> None:
        run = self.start()
        assert make_plan(run.backbone, run.plugins, run.provided).views[0].tokens

    def test_the_null_condition_is_shaped_as_the_condition_and_differs_from_it(self) -> None:
        net = self.backbone()
        y = self.condition(net)
        shapes = tree_map(lambda rows: (rows.shape, rows.dtype), net.null_condition(y))
        assert shapes == tree_map(lambda rows: (rows.shape, rows.dtype), y)

    @torch.no_grad()
    def test_a_loaded_state_gives_the_same_prediction(self, tmp_path: Path) -> None:
        net, other = self.backbone(), self.backbone()
        randomised_anew(other)
        torch.save(net.state_dict(), tmp_path / "state.pt")
        other.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True), strict=True)
        x, t, y = self.inputs(net)
        assert torch.equal(other(x, t, y), net(x, t, y))


def stretches(net: Backbone) -> list[tuple[int, int]]:
    """First block and end of each part of a network across which no border lies and in which the width is one."""
    ends = [0, *(border for border in net.borders if border > 0), len(net.blocks)]
    parts = list(pairwise(ends))
    if net.narrows_at is None:
        return parts
    wide = [(start, min(stop, net.narrows_at - 1)) for start, stop in parts]
    behind = net.narrows_at - 1 if net.narrows_at - 1 in net.borders else net.narrows_at
    narrow = [(max(start, behind), stop) for start, stop in parts]
    return [(start, stop) for start, stop in (*wide, *narrow) if start < stop]
