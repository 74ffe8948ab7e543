"""What every plugin must satisfy, as tests."""

import copy
import dataclasses
import pickle
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed
import torch.multiprocessing
from torch import Tensor

from diffx.assemble.flops import count_flops
from diffx.backbone import Backbone
from diffx.backbone.protocol import state_shape
from diffx.errors import DiffxError
from diffx.planner import MAIN, make_phases, make_view
from diffx.plugin import Plugin
from diffx.step import draw, losses, walk_with_plugins
from diffx.streams import Streams
from diffx.testing.operations import Operations
from diffx.testing.tiny import (
    BATCH,
    Services,
    TinyRun,
    make_registered,
    randomised_anew,
    registered,
    stand_in_services,
    tiny_mdt,
    try_set,
)
from diffx.testing.two_ranks import Step, shard, train_on_rank


def through_pickle(modules: Any) -> Any:
    return pickle.loads(pickle.dumps(modules))


class PluginContract:
    """What every plugin must satisfy. Subclass it in a test file and give `plugin`; override the rest where needed."""

    name = "mine"

    @staticmethod
    def plugin() -> Plugin:
        """A fresh plugin, before setup()."""
        raise NotImplementedError("give your contract a plugin: plugin = staticmethod(lambda: Mine())")

    def backbone(self) -> Backbone:
        """A fresh backbone on which the plugin works, the same every time: one with a decoder, which suits most."""
        return tiny_mdt(relative_bias=False)

    def services(self, backbone: Backbone) -> Services:
        """Whatever the plugin needs beside x, y and image; by default stand-ins for encoders."""
        return stand_in_services([self.plugin()], backbone)

    def start(self) -> TinyRun:
        backbone = self.backbone()
        return TinyRun({self.name: self.plugin()}, backbone, self.services(backbone))

    def test_switched_off_the_step_runs_the_plain_backbones_operations_bit_for_bit(self) -> None:
        plain, run = self.backbone(), self.start()
        view = make_view(MAIN, run.backbone, {})
        x = torch.randn(BATCH, *state_shape(plain), generator=torch.Generator().manual_seed(3))
        t, y = torch.linspace(0, 1, BATCH), run.batch["y"]
        with torch.no_grad(), Operations() as expected:
            wanted = plain(x, t, y)
        with torch.no_grad(), Operations() as walked:
            out, _ = walk_with_plugins(run.backbone, view, {}, x, t, y, {})
        with torch.no_grad(), Operations() as forwarded:
            run.backbone(x, t, y)
        assert wanted.abs().max() > 0.1
        assert torch.equal(out, wanted)
        assert walked.names == forwarded.names == expected.names

    def test_the_plugin_holds_no_parameter_of_the_backbone(self) -> None:
        run = self.start()
        owned = {id(p) for p in run.plugins[self.name].parameters()}
        assert not owned & {id(p) for p in run.backbone.parameters()}
        assert not any(p in run.backbone.state_dict() for p in run.plugins[self.name].state_dict())

    def test_every_loss_has_its_weight_and_the_total_is_their_weighted_sum(self) -> None:
        run = self.start()
        plugin = run.plugins[self.name]
        terms = run.losses(run.draws())
        named = {part: f"{self.name}/{part}" if part else self.name for part in plugin.weights()}
        total = torch.stack([terms[key] for key in terms if key.endswith("denoise")]).sum()
        if plugin.has_loss:
            total = total + sum(w * terms[named[part]] for part, w in plugin.weights().items())
        torch.testing.assert_close(terms["total"], total)

    def test_every_trained_parameter_gets_a_finite_gradient(self) -> None:
        run = self.start()
        run.losses(run.draws())["total"].backward()
        for owner in (run.backbone, *run.plugins.values()):
            for key, parameter in owner.named_parameters():
                if parameter.requires_grad:
                    assert parameter.grad is not None, key
                    assert parameter.grad.isfinite().all(), key

    def test_the_step_is_one_graph_and_a_new_weight_does_not_recompile(self) -> None:
        run = self.start()
        graphs = []

        def count(graph: torch.fx.GraphModule, inputs: Any) -> Callable[..., Any]:
            graphs.append(graph)
            return graph.forward

        torch._dynamo.reset()
        compiled = torch.compile(losses, fullgraph=True, backend=count, dynamic=False)
        shapes = set()
        for step in range(4):
            draws = run.draws(step)
            shapes.add(str([(key, value.shape) for key, value in draws.aux[self.name].items()]))
            for part in run.plugins[self.name].weights() if run.plugins[self.name].has_loss else ():
                run.plugins[self.name].set_weight(0.1 * step, part)
            total = compiled(run.backbone, run.plan, run.plugins, run.objective, draws)["total"]
            torch.testing.assert_close(total, run.losses(draws)["total"])
        # A ratio drawn every step changes the number of tokens: one graph for each.
        assert len(graphs) == len(shapes)

    def test_a_span_that_drops_nothing_equals_the_dense_pass(self) -> None:
        run = self.start()
        plugin = run.plugins[self.name]
        if plugin.span is None:
            pytest.skip("this plugin narrows nothing")
        plugin.span = dataclasses.replace(plugin.span, rate=0.0)
        run.plan = run.plan_now()
        draws = run.draws()
        x, t, y = draws.x, draws.t, draws.y[MAIN]
        view = next(v for v in run.plan.views if v.name == plugin.view)
        out, _ = walk_with_plugins(run.backbone, view, run.plugins, x, t, y, draws.aux)
        torch.testing.assert_close(out, run.backbone(x, t, y), rtol=1e-4, atol=1e-5)

    def test_after_its_stop_the_step_is_that_of_the_other_plugins(self) -> None:
        run = self.start()
        plugin = run.plugins[self.name]
        if plugin.streams:
            pytest.skip("without this plugin nobody trains a stream of the backbone")
        plugin.stop = 1
        late = make_phases(run.backbone, run.plugins, run.provided)[-1]
        assert (late.start, late.plugins, late.plan.needs) == (1, (), ())
        plain = TinyRun({}, run.backbone, run.services)
        draws = draw(run.backbone, late.plan, {}, run.objective, run.batch, {}, Streams(0, 1), 0.1)
        total = losses(run.backbone, late.plan, {}, run.objective, draws)["total"]
        assert torch.equal(total, plain.losses(plain.draws(1))["total"])

    def test_its_operations_are_counted_per_image(self) -> None:
        run = self.start()
        flops = count_flops(run.backbone, run.plugins, run.objective, run.plan, {})
        assert flops.train > flops.forward > 0
        assert all(not parameter.is_meta for parameter in run.plugins[self.name].parameters())

    def test_what_it_raises_in_a_step_is_a_sentence_with_its_name(self) -> None:
        run = self.start()
        plugin = run.plugins[self.name]

        def broken(batch: Any, rng: torch.Generator) -> Any:
            return batch["what is not there"]

        plugin.prepare = broken  # type: ignore[method-assign]
        with pytest.raises(DiffxError, match=f"plugins.{self.name} failed in prepare"):
            run.draws()

    def test_a_loaded_state_gives_the_same_losses(self, tmp_path: Path) -> None:
        run, other = self.start(), self.start()
        randomised_anew(other.plugins[self.name])
        torch.save(run.plugins[self.name].state_dict(), tmp_path / "state.pt")
        state = torch.load(tmp_path / "state.pt", weights_only=True)
        other.plugins[self.name].load_state_dict(state, strict=True)
        assert_equal_losses(other.losses(run.draws()), run.losses(run.draws()))

    @pytest.mark.parametrize("copied", [copy.deepcopy, through_pickle])
    def test_a_copy_gives_the_same_losses_and_shares_nothing(self, copied: Callable[[Any], Any]) -> None:
        run = self.start()
        draws = run.draws()
        wanted = run.losses(draws)
        backbone, plugins = copied((run.backbone, run.plugins))
        for module in (run.backbone, *run.plugins.values()):
            randomised_anew(module)
        assert_equal_losses(losses(backbone, run.plan, plugins, run.objective, draws), wanted)

    def test_bfloat16_autocast_is_finite_and_close(self) -> None:
        run = self.start()
        draws = run.draws()
        exact = run.losses(draws)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            rough = run.losses(draws)
        rough["total"].backward()
        for key, value in exact.items():
            assert abs(rough[key] - value) < 0.02 + 0.05 * abs(value), key
        assert all(p.grad.isfinite().all() for p in run.backbone.parameters() if p.grad is not None)

    def test_two_ranks_average_to_the_gradients_of_one_process(self, tmp_path: Path) -> None:
        """The process has both batches at once, or, where a plugin works across samples, one after the other."""
        run = self.start()
        step = Step(run.backbone, run.plugins, run.plan)
        if run.plugins[self.name].across_samples:
            batches = halves = [run.draws(rank=rank, ranks=2) for rank in range(2)]
        else:
            batches = [run.draws()]
            halves = [shard(batches[0], rank, 2) for rank in range(2)]
        for draws in batches:
            (step(draws) / len(batches)).backward()
        wanted = {key: p.grad.clone() for key, p in step.named_parameters() if p.grad is not None}
        step.zero_grad()
        torch.multiprocessing.spawn(train_on_rank, (step, halves, str(tmp_path)), nprocs=2)
        averaged = torch.load(tmp_path / "gradients.pt", weights_only=True)
        assert averaged.keys() == wanted.keys()
        for key, gradient in wanted.items():
            torch.testing.assert_close(averaged[key], gradient, rtol=1e-3, atol=1e-6)

    @pytest.mark.parametrize("other", registered())
    def test_it_composes_with_a_registered_plugin_or_the_error_names_both(self, other: str) -> None:
        if type(make_registered(other)) is type(self.plugin()):
            pytest.skip("the same plugin")
        both = {self.name: self.plugin(), other: make_registered(other)}
        backbone = self.backbone()
        services = {**stand_in_services([both[other]], backbone), **self.services(backbone)}
        run, refusal = try_set(both, backbone, services)
        if run is None:
            assert other in refusal
            # Only where the other is refused on this backbone without this plugin too may the sentence leave it out.
            alone, _ = try_set({other: make_registered(other)}, self.backbone(), services)
            assert self.name in refusal or alone is None
            return
        total = run.losses(run.draws())["total"]
        total.backward()
        assert total.isfinite()
        assert all(p.grad.isfinite().all() for p in run.backbone.parameters() if p.grad is not None)
        run.name_in_reverse()
        torch.testing.assert_close(run.losses(run.draws())["total"], total)


def assert_equal_losses(actual: Mapping[str, Tensor], wanted: Mapping[str, Tensor]) -> None:
    assert actual.keys() == wanted.keys()
    for key, value in wanted.items():
        assert torch.equal(actual[key], value), key
