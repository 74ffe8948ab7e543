"""Stochastic depth: every block runs on a share of the samples, whose residual is scaled up."""

import pytest
import torch

from diffx.assemble.flops import count_flops
from diffx.backbone.protocol import Memory, walk_blocks
from diffx.errors import DiffxError
from diffx.testing import TinyRun, tiny_backbone, tiny_mdt
from diffx_plugins.stochastic_depth import StochasticDepth


def test_the_prediction_is_that_of_a_loop_over_samples_and_blocks():
    run = TinyRun({"it": StochasticDepth(0.5, "constant")})
    draws = run.draws()
    order = draws.aux["it"]["order"]
    x_t = run.objective.noised(draws.x, draws.noise["main"], draws.t)
    tokens, cond = run.backbone.embed(x_t, draws.t, draws.y["main"], Memory())
    x = list(tokens.x)
    for depth in range(6):
        for sample in order[depth][:2].tolist():
            block = run.backbone.run_block(
                depth, tokens._replace(x=x[sample][None]), cond[sample : sample + 1], Memory()
            )
            x[sample] = x[sample] + 2 * (block.x[0] - x[sample])
    out = run.backbone.head(tokens._replace(x=torch.stack(x)), cond)
    expected = run.objective.loss(out, draws.x, draws.noise["main"], draws.t).mean()
    torch.testing.assert_close(run.losses(draws)["denoise"], expected)


def test_what_a_block_adds_is_in_the_mean_over_draws_that_of_the_whole_batch():
    run, totals = TinyRun({"it": StochasticDepth(0.5, "constant", start=5)}), []
    plugin, draws = run.plugins["it"], run.draws()
    tokens, cond = walk_blocks(run.backbone, draws.x, draws.t, draws.y["main"], until=5)

    def block(tokens, cond):
        return run.backbone.run_block(5, tokens, cond, Memory())

    whole = block(tokens, cond).x.mean(0)
    for first in range(4):
        aux = {"order": torch.tensor([[first, (first + 1) % 4, 0, 0]])}
        totals.append(plugin.around(5, block, tokens, cond, aux).x.mean(0))
    torch.testing.assert_close(torch.stack(totals).mean(0), whole, rtol=1e-4, atol=1e-5)


def test_rates_rise_linearly_from_zero_in_the_first_block_or_stay_constant():
    rising, constant = StochasticDepth(0.5), StochasticDepth(0.5, "constant", start=1, end=3)
    for plugin in (rising, constant):
        plugin.setup(tiny_backbone())
    assert rising.rates == pytest.approx({1: 0.1, 2: 0.2, 3: 0.3, 4: 0.4, 5: 0.5})
    assert constant.rates == {1: 0.5, 2: 0.5, 3: 0.5}


@pytest.mark.parametrize(("rate", "rule", "relative"), [(0.2, "linear", 0.9), (0.5, "constant", 0.5)])
def test_the_cost_falls_with_the_rate(rate, rule, relative):
    run = TinyRun({"it": StochasticDepth(rate, rule)}, tiny_backbone(depth=28))
    flops = count_flops(run.backbone, run.plugins, run.objective, run.plan, {})
    assert flops.relative == pytest.approx(relative, abs=0.02)


def test_a_conditioning_of_each_token_is_cut_with_the_samples():
    run = TinyRun({"it": StochasticDepth(0.5, "constant", start=2, end=2)})
    draws = run.draws()
    times = draws.t[:, None].expand(-1, 16)
    tokens, cond = run.backbone.embed(draws.x, times, draws.y["main"], Memory())
    same, same_cond = run.backbone.embed(draws.x, draws.t, draws.y["main"], Memory())

    def block(tokens, cond):
        return run.backbone.run_block(2, tokens, cond, Memory())

    around = run.plugins["it"].around
    each = around(2, block, tokens, cond, draws.aux["it"])
    assert torch.equal(each.cond, tokens.cond)
    torch.testing.assert_close(each.x, around(2, block, same, same_cond, draws.aux["it"]).x)


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"rate": 1.0}, "rate=1.0"),
        ({"rate": -0.1}, "rate=-0.1"),
        ({"rule": "cubic"}, "rule=cubic"),
        ({"start": 4, "end": 3}, "start=4 and end=3"),
        ({"end": 6}, "end=6"),
    ],
)
def test_settings_that_cannot_be_are_refused(settings, says):
    with pytest.raises(DiffxError, match=says):
        StochasticDepth(**settings).setup(tiny_backbone())


def test_blocks_that_skips_join_are_refused():
    with pytest.raises(DiffxError, match="skips join"):
        StochasticDepth().setup(tiny_mdt(skips=True))
