"""SRA: the student is aligned with the run's own average at another depth and an earlier time."""

import pytest
import torch
import torch.nn.functional as F

from diffx.assemble.flops import count_flops
from diffx.backbone.protocol import walk_blocks
from diffx.errors import DiffxError
from diffx.objective import DDPM, EDM
from diffx.testing import TinyRun, tiny_backbone
from diffx.tokens import Tokens, gather
from diffx_plugins.sra import SRA, before, distance


@pytest.mark.parametrize(("blocks", "depths"), [(12, (3, 8)), (24, (6, 16)), (28, (8, 20)), (6, (1, 4))])
def test_by_default_the_depths_are_the_papers(blocks, depths):
    plugin = SRA()
    plugin.objective = DDPM()
    plugin.setup(tiny_backbone(depth=blocks))
    assert (*plugin.reads, plugin.teacher) == depths


def test_the_teacher_sees_the_same_noise_and_dropped_labels_at_a_time_at_most_the_interval_earlier():
    calls = []

    def teacher(*given):
        calls.append(given)
        return torch.zeros(4, 16, 32)

    teacher.takes = ()
    run = TinyRun({"it": SRA()}, services={"ema": teacher})
    draws = run.draws(3)
    ((x_t, t, label, depth),) = calls
    assert (t <= draws.t).all()
    assert (t >= (draws.t - 0.2).clamp(min=0)).all()
    assert len(set((draws.t - t).tolist())) == 4
    assert torch.equal(x_t, run.objective.noised(draws.x, draws.noise["main"], t))
    assert torch.equal(label, draws.y["main"])
    assert depth == 4


def test_without_an_interval_the_loss_is_the_distance_of_two_depths_of_one_pass():
    run = TinyRun({"it": SRA(2, 4, "l2", interval=0.0)})
    draws = run.draws()
    x_t = run.objective.noised(draws.x, draws.noise["main"], draws.t)
    given = (x_t, draws.t, draws.y["main"])
    shallow, deep = (walk_blocks(run.backbone, *given, until=depth)[0].x for depth in (2, 4))
    expected = F.mse_loss(run.plugins["it"].head(shallow), deep)
    torch.testing.assert_close(run.losses(draws)["it"], expected)


def test_the_released_cosine_goes_over_the_tokens_of_a_channel_and_not_over_channels():
    a, b = torch.randn(2, 5, 3), torch.randn(2, 5, 3)
    unit = [v / v.square().sum(1, keepdim=True).sqrt() for v in (a, b)]
    torch.testing.assert_close(distance("cos", a, b), ((unit[0] - unit[1]).square().sum(1) / 2).mean())


def test_tokens_kept_by_a_route_are_compared_with_the_teachers_at_their_places():
    run = TinyRun({"it": SRA(2, 4, "l2")})
    plugin, teacher, ids = run.plugins["it"], torch.randn(1, 16, 32), torch.tensor([[9, 0, 4]])
    x = torch.randn(1, 3, 32)
    loss = plugin.loss({2: Tokens(x, ids)}, x, {"teacher": teacher})
    torch.testing.assert_close(loss, F.mse_loss(plugin.head(x), gather(teacher, ids)))


def test_steps_of_ddpm_are_moved_by_whole_numbers_and_never_below_zero():
    assert before(torch.tensor([500, 100]), torch.tensor([0.1999, 0.2])).tolist() == [301, 0]


def test_the_teachers_blocks_are_counted_as_teaching():
    run = TinyRun({"it": SRA(2, 4)})
    flops = count_flops(run.backbone, run.plugins, run.objective, run.plan, {})
    assert 0.5 * flops.plain < flops.encoder < flops.plain


def test_an_objective_of_noise_levels_is_refused():
    plugin = SRA()
    plugin.objective = EDM()
    with pytest.raises(DiffxError, match=r"plugins\.sra .*objective=linear"):
        plugin.setup(tiny_backbone())


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"depth": 0}, "sra.depth=0"),
        ({"teacher_depth": 7}, "teacher_depth=7"),
        ({"loss": "l1"}, "loss=l1"),
        ({"interval": 2.0}, "interval=2.0"),
    ],
)
def test_settings_that_cannot_be_are_refused(settings, says):
    with pytest.raises(DiffxError, match=says):
        TinyRun({"it": SRA(**settings)})
