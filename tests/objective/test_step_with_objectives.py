"""The training step with each objective."""

import pytest
import torch

from diffx.objective import DDPM, EDM, Interpolant, Objective
from diffx.step import losses
from diffx.testing import TinyRun, make_registered, tiny_backbone

OBJECTIVES = [Interpolant(), DDPM(min_snr=5), EDM()]


def run_with(objective: Objective) -> TinyRun:
    run = TinyRun({"repa": make_registered("repa")}, tiny_backbone(learn_sigma=True))
    run.objective = objective
    return run


@pytest.mark.parametrize("objective", OBJECTIVES, ids=lambda o: type(o).__name__)
def test_the_step_trains_every_parameter_and_is_one_compiled_graph(objective):
    run = run_with(objective)
    draws = run.draws()
    torch._dynamo.reset()
    compiled = torch.compile(losses, fullgraph=True, backend="eager", dynamic=False)
    total = compiled(run.backbone, run.plan, run.plugins, run.objective, draws)["total"]
    torch.testing.assert_close(total, run.losses(draws)["total"])
    total.backward()
    assert all(p.grad.isfinite().all() for p in run.backbone.parameters() if p.requires_grad)


def test_edm_feeds_the_network_its_preconditioned_input_and_log_noise_level():
    run = run_with(EDM())
    draws = run.draws()
    seen = []
    run.backbone.x_embedder.register_forward_pre_hook(lambda module, args: seen.append(args[0]))
    run.backbone.t_embedder.register_forward_pre_hook(lambda module, args: seen.append(args[0]))
    run.losses(draws)
    sigma = draws.t.view(-1, 1, 1, 1)
    torch.testing.assert_close(seen[0], (draws.x + sigma * draws.noise["main"]) / (sigma**2 + 0.25).sqrt())
    torch.testing.assert_close(seen[1], draws.t.log() / 4)
