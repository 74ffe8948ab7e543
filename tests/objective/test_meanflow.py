"""MeanFlow: the target, the step and the sampler. Agreement with recorded code is in tests/golden."""

import pytest
import torch

from diffx.assemble.model import build_network
from diffx.config.compose import compose_config
from diffx.errors import DiffxError
from diffx.objective import MeanFlow
from diffx.plugin import Plugin
from diffx.sampler import Field, MeanFlowSteps
from diffx.testing import TinyRun, make_registered, tiny_backbone
from diffx.train.module import DiffusionModule


@pytest.fixture(scope="module")
def network():
    return tiny_backbone(two_times=True)


def batch(count: int = 4, dtype: torch.dtype = torch.float32):
    """x, noise, t, r, y and its null."""
    rng = torch.Generator().manual_seed(0)
    x, noise = torch.randn(2, count, 4, 8, 8, generator=rng, dtype=dtype)
    t = torch.tensor([0.3, 0.5, 0.7, 0.9], dtype=dtype)
    return x, noise, t, torch.tensor([0.1, 0.5, 0.2, 0.6], dtype=dtype), torch.arange(4), torch.full((4,), 10)


def run_with(objective: MeanFlow, plugins: dict[str, Plugin]) -> TinyRun:
    run = TinyRun(plugins, tiny_backbone(two_times=True))
    run.objective = objective
    return run


def test_r_lies_below_t_and_equals_it_for_the_share_instant():
    t, r = MeanFlow(instant=0.6).intervals(4000, torch.Generator().manual_seed(0))
    assert (r <= t).all()
    assert (r == t).float().mean().item() == pytest.approx(0.6, abs=0.03)
    assert torch.logit(r[r < t]).mean() < -0.4 < torch.logit(t[r < t]).mean()


def test_the_target_is_the_velocity_less_the_stretch_times_the_slope_along_the_path(network):
    x, noise, t, r, y, null = batch(dtype=torch.float64)
    objective, double = MeanFlow(), tiny_backbone(two_times=True).double()

    def moved(by: float) -> torch.Tensor:
        return double(objective.noised(x, noise, t + by), torch.stack([t + by, r], 1), y)

    with torch.no_grad():
        slope = (moved(1e-5) - moved(-1e-5)) / 2e-5
    average = objective.average(double, x, noise, t, r, y, null)
    expected = noise - x - (t - r).view(-1, 1, 1, 1) * slope
    torch.testing.assert_close(average, expected, rtol=1e-4, atol=1e-4)
    assert not torch.allclose(expected, noise - x, atol=0.05)


def test_guidance_in_the_target_leaves_out_dropped_labels_and_times_outside_its_interval(network):
    x, noise, t, _, y, null = batch()
    y = torch.where(torch.arange(4) == 1, null, y)
    objective = MeanFlow(omega=0.2, kappa=0.92, high=0.8)
    average = objective.average(network, x, noise, t, t, y, null)
    plain = noise - x
    torch.testing.assert_close(average[[1, 3]], plain[[1, 3]])
    with torch.no_grad():
        x_t = objective.noised(x, noise, t)
        guided = 0.2 * plain + 0.92 * network(x_t, t, y) - 0.12 * network(x_t, t, null)
    torch.testing.assert_close(average[[0, 2]], guided[[0, 2]], rtol=1e-4, atol=1e-5)


def test_a_step_pulls_the_network_at_both_times_to_the_target():
    run = run_with(MeanFlow(power=0, instant=0), {})
    draws = run.draws()
    x, noise, y = draws.x, draws.noise["main"], draws.y["main"]
    average = run.objective.average(run.backbone, x, noise, draws.t, draws.r, y, torch.full_like(y, 10))
    x_t = run.objective.noised(x, noise, draws.t)
    gap = run.backbone(x_t, torch.stack([draws.t, draws.r], 1), y) - average
    torch.testing.assert_close(run.losses(draws)["denoise"], gap.square().flatten(1).sum(1).mean())


def test_with_plugins_the_target_is_still_the_plain_networks_and_all_weights_are_trained():
    run = run_with(MeanFlow(instant=0), {"repa": make_registered("repa"), "tread": make_registered("tread")})
    asked = []
    average = run.objective.average
    run.objective.average = lambda *given: asked.append(average(*given)) or asked[0]
    draws = run.draws()
    run.losses(draws)["total"].backward()
    x, noise, y = draws.x, draws.noise["main"], draws.y["main"]
    assert torch.equal(asked[0], average(run.backbone, x, noise, draws.t, draws.r, y, torch.full_like(y, 10)))
    assert all(p.grad is not None and p.grad.isfinite().all() for p in run.backbone.parameters() if p.requires_grad)
    assert run.backbone.r_embedder.mlp[0].weight.grad.any()


def test_compiled_blocks_make_the_same_target(network):
    given, compiled = batch(), tiny_backbone(two_times=True)
    torch._dynamo.reset()
    for block in compiled.blocks:
        block.forward = torch.compile(block.forward, fullgraph=True, backend="eager")
    assert torch.equal(MeanFlow().average(compiled, *given), MeanFlow().average(network, *given))


@pytest.mark.parametrize("steps", [1, 2, 5])
def test_where_averages_are_exact_any_number_of_steps_ends_at_the_data(steps):
    point = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(1))

    def average(x, times, y):
        return (x - point) / times[:, 0].view(-1, 1, 1, 1)  # of one image as all the data

    y = torch.zeros(2, dtype=torch.long)
    field = Field(average, MeanFlow(), y, y)
    noise = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    torch.testing.assert_close(MeanFlowSteps(steps)(field, noise, lambda x: x).float(), point.expand(2, -1, -1, -1))


REFUSED = [
    (["objective=meanflow"], "two_times=true"),
    (["objective=meanflow", "+backbone.two_times=true", "sampler=edm"], "type sampler=meanflow"),
    (["sampler=meanflow"], "averages between two times"),
    (["+backbone.two_times=true", "backbone.conditioning=in_context"], "conditioning=adaln_zero"),
    (["objective=meanflow", "objective.instant=2"], "instant=2"),
    (["objective=meanflow", "objective.kappa=1"], "kappa below 1"),
    (["objective=meanflow", "objective.floor=0"], "must be positive"),
]


@pytest.mark.parametrize(
    ("words", "says"), REFUSED, ids=lambda value: " ".join(value) if isinstance(value, list) else ""
)
def test_what_does_not_go_with_it_is_refused(words, says):
    with pytest.raises(DiffxError, match=says):
        build_network(compose_config(words))


def test_a_plugin_that_asks_for_a_target_is_refused():
    run = run_with(MeanFlow(), {"contrastive": make_registered("contrastive")})
    with pytest.raises(DiffxError, match="no target or error"):
        run.losses(run.draws())


@pytest.mark.parametrize("options", [{"compile": "step"}, {"shard": True}], ids=str)
def test_a_sharded_network_and_a_step_as_one_graph_are_refused(network, options):
    with pytest.raises(DiffxError, match="forward-mode derivative"):
        DiffusionModule.of(network, objective=MeanFlow(), **options)
