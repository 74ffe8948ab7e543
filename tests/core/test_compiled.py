"""Compilation: every set of plugins is one graph, which a changing λ leaves alone; blocks share theirs."""

import itertools
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch._dynamo import reset

from diffx.step import losses
from diffx.testing import TinyRun, make_registered, registered
from diffx_plugins.tread import TREAD

SETS = [names for count in (2, 3) for names in itertools.combinations(registered(), count)]


class Graphs(list[torch.fx.GraphModule]):
    """A compiler that keeps the graphs it is given and runs them as they are."""

    def __call__(self, graph: torch.fx.GraphModule, inputs: Any) -> Callable[..., Any]:
        self.append(graph)
        return graph.forward


@pytest.mark.parametrize("names", SETS, ids="+".join)
def test_a_set_is_one_graph_over_four_steps_while_its_weights_change(names):
    run, graphs = TinyRun({name: make_registered(name) for name in names}), Graphs()
    reset()
    compiled = torch.compile(losses, fullgraph=True, dynamic=False, backend=graphs)
    for step in range(4):
        draws = run.draws(step)
        for plugin in run.plugins.values():
            for part in plugin.weights() if plugin.has_loss else ():
                plugin.set_weight(0.1 * step, part)
        total = compiled(run.backbone, run.plan, run.plugins, run.objective, draws)["total"]
        torch.testing.assert_close(total, run.losses(draws)["total"])
    assert len(graphs) == 1


def test_blocks_compiled_one_by_one_share_a_graph_for_each_number_of_tokens():
    run, graphs = TinyRun({"tread": TREAD(start=1, end=3)}), Graphs()
    reset()
    for block in run.backbone.blocks:
        block.compile(fullgraph=True, dynamic=False, backend=graphs)
    for step in range(4):
        run.losses(run.draws(step))["total"].backward()
    assert len(graphs) == 2
