"""Compilation: every set of plugins is one graph, which a changing λ leaves alone; blocks share theirs."""

import itertools
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch._dynamo import reset
from torch.nn.parallel import DistributedDataParallel

from diffx.step import losses
from diffx.testing import TinyRun, make_registered, tiny_backbone, tiny_mdt
from diffx.train.module import DiffusionModule
from diffx.train.trainer import block_bytes
from diffx_plugins.mdt import MDT
from diffx_plugins.tread import TREAD

LOSSES = (
    "contrastive",
    "direction",
    "dispersive",
    "haste",
    "layersync",
    "repa",
    "self_flow",
    "sra",
    "sra2",
    "transcend",
)
WALKS = ("mdt", "self_flow", "stochastic_depth", "tread")  # those that change the walk; the contract has each alone
SETS = [*itertools.combinations(WALKS, 2), ("mdt", "repa", "tread"), LOSSES]


class Graphs(list[torch.fx.GraphModule]):
    """A compiler that keeps the graphs it is given and runs them as they are."""

    def __call__(self, graph: torch.fx.GraphModule, inputs: Any) -> Callable[..., Any]:
        self.append(graph)
        return graph.forward


@pytest.mark.parametrize("names", SETS, ids="+".join)
def test_a_set_is_one_graph_over_four_steps_while_its_weights_change(names):
    run, graphs = TinyRun({name: make_registered(name) for name in names}, tiny_mdt()), Graphs()
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


def test_a_module_compiles_the_blocks_of_mdtv2_for_each_of_its_token_numbers(monkeypatch):
    run, graphs = TinyRun({"mdt": MDT((0.1, 0.6))}, tiny_mdt(skips=True)), Graphs()
    reset()
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend=graphs))
    module = DiffusionModule(
        run.model, torch.optim.AdamW, {}, seed=0, label_dropout=0.1, ema_decay=0.9, compile="blocks"
    )
    lengths = set()
    for step in range(24):
        draws = run.draws(step)
        lengths.add(draws.aux["mdt"]["keep"].shape[1])
        losses(module.backbone, run.plan, run.plugins, run.objective, draws)["total"].backward()
    assert len(lengths) == 4
    inside = {shape_of_tokens(graph)[1] for graph in graphs}
    assert inside == {*lengths, 16}


def shape_of_tokens(graph: torch.fx.GraphModule) -> torch.Size:
    """Of the first input that is a batch of tokens."""
    inputs = [node.meta["example_value"] for node in graph.graph.find_nodes(op="placeholder")]
    return next(value.shape for value in inputs if value.ndim == 3)


def test_blocks_compiled_one_by_one_share_a_graph_for_each_number_of_tokens():
    run, graphs = TinyRun({"tread": TREAD(start=1, end=3)}), Graphs()
    reset()
    for block in run.backbone.blocks:
        block.compile(fullgraph=True, dynamic=False, backend=graphs)
    for step in range(4):
        run.losses(run.draws(step))["total"].backward()
    assert len(graphs) == 2


@pytest.fixture
def alone(tmp_path: Path) -> Iterator[None]:
    """One process that is its own group."""
    dist.init_process_group("gloo", init_method=f"file://{tmp_path / 'meet'}", rank=0, world_size=1)
    yield
    dist.destroy_process_group()


def test_a_compiled_block_stays_one_graph_under_ddp(alone, monkeypatch):
    run, graphs = TinyRun({}, tiny_backbone()), Graphs()
    reset()
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend=graphs))
    options = {"seed": 0, "label_dropout": 0.1, "ema_decay": 0.9}
    with torch._dynamo.config.patch(optimize_ddp=True):
        module = DiffusionModule(run.model, torch.optim.AdamW, {}, compile="blocks", **options)
        quarter_of_a_block = block_bytes(module.backbone) / 4 / 2**20
        wrapped = DistributedDataParallel(module.backbone, bucket_cap_mb=quarter_of_a_block)
        wrapped(torch.randn(2, 4, 8, 8), torch.rand(2), torch.zeros(2, dtype=torch.long)).sum().backward()
    assert len(graphs) == 1
