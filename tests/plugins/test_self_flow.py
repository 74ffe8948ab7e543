"""Self-Flow and DTS + AS: two times in one image."""

import pytest
import torch

from diffx.assemble.flops import count_flops
from diffx.backbone.protocol import Memory
from diffx.errors import DiffxError
from diffx.testing import PluginContract, TinyRun, tiny_mdt
from diffx_plugins.self_flow import SelfFlow
from diffx_plugins.stochastic_depth import StochasticDepth
from diffx_plugins.tread import TREAD


class TestSeparated(PluginContract):
    name = "self_flow"
    plugin = staticmethod(lambda: SelfFlow(separate=True))


def test_a_quarter_of_the_tokens_has_the_samples_time_and_the_rest_a_second_one():
    draws = TinyRun({"it": SelfFlow()}).draws()
    aux = draws.aux["it"]
    for times, t, group in zip(aux["times"], draws.t, aux["group0"], strict=True):
        assert len(group) == 4
        assert (times[group] == t).all()
        assert len(set(times.tolist())) == 2


def test_the_average_sees_the_whole_image_at_the_smaller_time_with_its_true_label():
    calls = []

    def teacher(*given):
        calls.append(given)
        return torch.zeros(4, 16, 32)

    teacher.takes = ()
    run = TinyRun({"it": SelfFlow()}, services={"ema": teacher})
    draws = run.draws()
    ((x_t, t, label, _),) = calls
    smaller = draws.aux["it"]["both"].amin(1)
    assert torch.equal(t, smaller[:, None].expand(-1, 16))
    torch.testing.assert_close(x_t, run.objective.noised(draws.x, draws.noise["main"], smaller))
    assert torch.equal(label, run.batch["y"])


def test_with_separate_attention_a_group_does_not_depend_on_the_other():
    run = TinyRun({"it": SelfFlow(1, 6, separate=True)})
    draws = run.draws()
    group, other = draws.aux["it"]["group0"][0], draws.aux["it"]["group1"][0]
    plugin = run.plugins["it"]
    tokens, cond = run.backbone.embed(draws.x, draws.aux["it"]["times"], draws.y["main"], Memory())
    changed = tokens._replace(x=tokens.x.index_fill(1, other, 0.0))

    def block(tokens, cond):
        return run.backbone.run_block(0, tokens, cond, Memory())

    one, two = (plugin.around(0, block, given, cond, draws.aux["it"]).x[0] for given in (tokens, changed))
    torch.testing.assert_close(one[group], two[group])
    assert not torch.allclose(one[other], two[other])


def test_the_cost_counts_the_average_up_to_its_block():
    for separate in (False, True):
        run = TinyRun({"it": SelfFlow(2, 4, separate=separate)})
        flops = count_flops(run.backbone, run.plugins, run.objective, run.plan, {})
        assert 0.5 * flops.forward < flops.encoder < flops.forward


@pytest.mark.parametrize("other", [TREAD(0.5, 1, 4), StochasticDepth()])
def test_separate_groups_do_not_go_with_what_leaves_tokens_or_samples_out(other):
    with pytest.raises(DiffxError, match=r"plugins\.(it|other).*plugins\.(it|other)"):
        TinyRun({"it": SelfFlow(separate=True), "other": other})


def test_separate_groups_are_refused_where_skips_join_blocks():
    with pytest.raises(DiffxError, match="separate=false"):
        TinyRun({"it": SelfFlow(separate=True)}, tiny_mdt(skips=True))


@pytest.mark.parametrize("settings", [{"mask_ratio": 0.0}, {"mask_ratio": 1.0}, {"mask_ratio": 0.01}, {"loss": "l1"}])
def test_settings_that_cannot_be_are_refused(settings):
    ((name, value),) = settings.items()
    with pytest.raises(DiffxError, match=f"plugins.self_flow.{name}={value}"):
        TinyRun({"it": SelfFlow(**settings)})
