"""Schedules of guidance, and guidance by routed forwards."""

import pytest
import torch

from diffx.errors import DiffxError
from diffx.objective import DDPM, EDM, Interpolant
from diffx.sampler import Ancestral, Dopri5, Field, Guidance, SampleNoise
from diffx.testing import tiny_backbone
from diffx_plugins.tread.guidance import RoutedGuidance


def test_the_power_cosine_schedule_has_the_full_scale_at_the_data_and_none_at_the_noise():
    guidance = Guidance(scale=3.8, power=4)
    assert guidance.scale_at(0) == pytest.approx(3.8)
    assert guidance.scale_at(1) == 1
    scales = [guidance.scale_at(k / 10) for k in range(11)]
    assert scales == sorted(scales, reverse=True)


def test_guidance_intervals_refer_to_the_share_of_the_way_to_noise_whatever_the_objectives_time():
    assert Interpolant().position(0.3) == 0.3
    assert DDPM().position(300) == 0.3
    assert EDM().position(0.0) == 0
    assert EDM().position(1.0) == 0.5
    assert EDM().position(80.0) > 0.98


@torch.no_grad()
def test_guidance_acts_on_the_steps_inside_its_interval_alone():
    rows = []

    def network(x, t, y):
        rows.append((int(t[0]), len(x)))
        return torch.cat([x, x], dim=1)

    guidance = Guidance(scale=2, high=0.5)
    field = Field(network, DDPM(), torch.zeros(1, dtype=torch.long), torch.full((1,), 10), guidance)
    Ancestral(10)(field, SampleNoise(0, range(1)).draw((1, 2, 2)), SampleNoise(1, range(1)))
    assert rows == [(t, 1 if t > 500 else 2) for t in range(999, -1, -111)]


@torch.no_grad()
def test_an_adaptive_solver_never_asks_for_a_time_outside_zero_to_one():
    times = []

    def network(x, t, y):
        times.append(t[0].item())
        return torch.sin(8 * x) * t.view(-1, 1, 1, 1)

    field = Field(network, Interpolant(), torch.zeros(2, dtype=torch.long), torch.full((2,), 10))
    Dopri5()(field, SampleNoise(0, range(2)).draw((1, 2, 2)), None)
    assert min(times) >= 0
    assert max(times) <= 1


@pytest.fixture(scope="module")
def backbone():
    return tiny_backbone().eval()


def guided(backbone, guidance, position=0.5, count=3):
    rng = torch.Generator().manual_seed(0)
    x, y = torch.randn(4, 4, 8, 8, generator=rng)[:count], torch.tensor([1, 2, 3, 4])[:count]
    with torch.no_grad():
        return guidance(backbone, x, position, y, torch.full_like(y, 10)), backbone(
            x, torch.full((count,), position), y
        )


def test_routes_that_drop_nothing_give_the_dense_forward_whatever_the_scale(backbone):
    out, dense = guided(backbone, RoutedGuidance(3.0, strong=0, weak=0))
    torch.testing.assert_close(out, dense, rtol=1e-4, atol=1e-5)


def test_routed_guidance_moves_from_the_weak_forward_through_the_strong_one(backbone):
    def alone(share):  # where both shares are one, so are both forwards, whatever the scale
        return guided(backbone, RoutedGuidance(7.0, share, share))[0]

    strong, weak = alone(0.25), alone(0.75)
    assert (strong - weak).abs().max() > 1e-3
    torch.testing.assert_close(guided(backbone, RoutedGuidance(1.5, 0.25, 0.75))[0], weak + 1.5 * (strong - weak))


def test_the_share_of_tokens_skips_the_blocks_of_the_route_and_no_others(backbone):
    seen = []
    hooks = [
        block.register_forward_pre_hook(lambda module, args, depth=depth: seen.append((depth, args[0].shape[1])))
        for depth, block in enumerate(backbone.blocks)
    ]
    with torch.no_grad():
        RoutedGuidance(1.5, 0.25, 0.75, start=1, end=3)(
            backbone, torch.ones(1, 4, 8, 8), 0.5, torch.tensor([1]), torch.tensor([10])
        )
    for hook in hooks:
        hook.remove()
    assert seen == [(d, n if 1 <= d <= 3 else 16) for n in (12, 4) for d in range(6)]


def test_routed_guidance_keeps_the_label(backbone):
    x, times = torch.ones(1, 4, 8, 8), 0.5
    with torch.no_grad():
        outs = [RoutedGuidance()(backbone, x, times, torch.tensor([y]), torch.tensor([10])) for y in (1, 2)]
    assert (outs[0] - outs[1]).abs().max() > 1e-3


def test_a_sample_does_not_depend_on_those_beside_it_and_the_routes_change_with_time(backbone):
    together, alone = (guided(backbone, RoutedGuidance(), count=count)[0] for count in (3, 1))
    torch.testing.assert_close(together[:1], alone)
    x, y = torch.ones(1, 4, 8, 8), torch.tensor([1])
    with torch.no_grad():
        outs = [RoutedGuidance(0.0)(backbone, x, 0.5, y, torch.full_like(y, 10), position) for position in (0.5, 0.51)]
    assert (outs[0] - outs[1]).abs().max() > 1e-4


def test_routed_guidance_refuses_a_network_that_is_no_backbone_and_shares_in_the_wrong_order():
    with pytest.raises(DiffxError, match="not one"):
        RoutedGuidance()(lambda x, t, y: x, torch.zeros(1, 4, 8, 8), 0.5, torch.tensor([1]), torch.tensor([10]))
    with pytest.raises(DiffxError, match="strong <= weak"):
        RoutedGuidance(strong=0.7, weak=0.3)
