"""SR-DiT's network beside its recording: sizes, values of the first block, what may be left out, what it refuses."""

import pytest
import torch

from diffx.assemble.flops import count_flops
from diffx.backbone import SRDiT
from diffx.backbone.protocol import Memory, state_shape
from diffx.errors import DiffxError
from diffx.objective import Interpolant
from diffx.planner import make_plan
from diffx.step import losses
from diffx.testing import BATCH, TinyRun, tiny_of
from diffx_plugins.identity import Identity
from diffx_plugins.reg import REG
from diffx_plugins.sprint import SPRINT, PathDropGuidance
from diffx_plugins.stochastic_depth import StochasticDepth
from diffx_plugins.tread import TREAD

SETTINGS = {"mask": "random", "path_drop": 0.05, "path_drop_by": "batch", "drop_extra": True}


def test_the_parameters_and_flops_of_b_are_the_published_and_measured_ones():
    """140.24M with 7.34M of projectors, less a row of zeros in the table; 0.59 of DiT's forward with the projectors.

    The share is of DiT-B/2 on 32 x 32, which has as many tokens: its patches' layers are 0.001 of it.
    """
    with torch.device("meta"):
        net, plugins = SRDiT(), {"reg": REG(depth=2), "sprint": SPRINT(**SETTINGS)}
        for plugin in plugins.values():
            plugin.setup(net)
    projectors = sum(p.numel() for p in plugins["reg"].parameters())
    assert projectors / 1e6 == pytest.approx(7.34, abs=0.006)
    assert (sum(p.numel() for p in net.parameters()) + net.hidden_size + projectors) / 1e6 == pytest.approx(
        140.24, abs=0.006
    )
    plan = make_plan(net, plugins, ("features/dinov2_vitb14", "class_token/dinov2_vitb14"))
    assert count_flops(net, plugins, Interpolant(), plan, {}).relative == pytest.approx(0.591, abs=0.006)


@torch.no_grad()
def test_later_blocks_mix_the_first_blocks_values_into_theirs():
    """A second formula: with λ = 1 a block attends to the first block's values alone."""
    net = tiny_of(SRDiT)
    x = torch.randn(BATCH, *state_shape(net), generator=torch.Generator().manual_seed(0))
    memory = Memory()
    tokens, cond = net.embed(x, torch.full((BATCH,), 0.5), torch.arange(BATCH), memory)
    first = net.switch(1, net.run_block(0, tokens, cond, memory), cond, memory)
    block = net.blocks[1]
    block.attn.value_mix.fill_(1.0)
    mixed = net.run_block(1, first, cond, memory).x
    width = net.hidden_size
    block.attn.qkv.weight[2 * width :].normal_()  # its own values
    assert torch.equal(net.run_block(1, first, cond, memory).x, mixed)
    block.attn.value_mix.fill_(0.5)
    assert not torch.allclose(net.run_block(1, first, cond, memory).x, mixed, atol=1e-3)


@pytest.mark.parametrize("drop_extra", [True, False])
def test_the_class_token_stays_unless_it_may_be_left_out(drop_extra):
    sprint = SPRINT(**{**SETTINGS, "drop_extra": drop_extra})
    run = TinyRun({"reg": REG(), "sprint": sprint}, tiny_of(SRDiT))
    keep = torch.cat([run.draws(step).aux["sprint"]["keep"] for step in range(40)])
    share = (keep == 16).any(1).float().mean()
    assert keep.shape[1] == (4 if drop_extra else 5)
    assert (0.15 < share < 0.35) if drop_extra else share == 1


@pytest.mark.parametrize(
    "beside",
    [StochasticDepth(0.5, "constant"), Identity(0, 0), TREAD(0.5, 1, 1), TREAD(0.5, 0, 0)],
    ids=["fewer samples", "no first block", "a route behind the first block", "a route around it"],
)
def test_plugins_that_run_blocks_on_less_leave_the_values_of_the_rest_at_zero(beside):
    run = TinyRun({"reg": REG(), "beside": beside}, tiny_of(SRDiT))
    total = run.losses(run.draws())["total"]
    total.backward()
    assert total.isfinite()


def test_every_trained_parameter_has_a_gradient_with_no_token_dropped():
    run = TinyRun({"reg": REG()}, tiny_of(SRDiT))
    run.losses(run.draws())["total"].backward()
    assert all(p.grad is not None for p in run.backbone.parameters() if p.requires_grad)


@torch.no_grad()
def test_path_drop_guidance_guides_both_streams():
    net = tiny_of(SRDiT)
    x, y = torch.randn(BATCH, *state_shape(net)), torch.arange(BATCH)
    null, t = net.null_condition(y), torch.full((BATCH,), 0.5)
    strong, guided = net(x, t, y), PathDropGuidance(2.0)(net, x, 0.5, y, null)
    weak = 2 * strong - guided
    torch.testing.assert_close(PathDropGuidance(3.0)(net, x, 0.5, y, null), weak + 3 * (strong - weak))
    assert guided.shape == x.shape


def test_a_step_with_the_class_token_and_few_tokens_in_the_middle_is_one_graph():
    run, graphs = TinyRun({"reg": REG(), "sprint": SPRINT(**SETTINGS)}, tiny_of(SRDiT)), []

    def count(graph, inputs):
        graphs.append(graph)
        return graph.forward

    torch._dynamo.reset()
    compiled = torch.compile(losses, fullgraph=True, backend=count, dynamic=False)
    for step in range(3):
        draws = run.draws(step)
        total = compiled(run.backbone, run.plan, run.plugins, run.objective, draws)["total"]
        torch.testing.assert_close(total, run.losses(draws)["total"])
    assert len(graphs) == 1


def test_no_parameter_is_a_scalar_which_fsdp_would_not_shard():
    assert all(parameter.ndim for parameter in SRDiT.tiny().parameters())


def test_a_variance_is_refused():
    with pytest.raises(DiffxError, match=r"type backbone\.learn_sigma=false"):
        SRDiT.tiny(learn_sigma=True)
