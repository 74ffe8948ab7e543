"""Agreement with snap-research/Sprint, whose time runs as ours, from data (0) to noise."""

import pytest
import torch
from recordings import Recording, assert_agrees, imported, load
from torch import nn

from diffx.backbone import SprintBackbone
from diffx.objective import Interpolant
from diffx.planner import MAIN, make_view
from diffx.step import walk_with_plugins
from diffx_plugins.repa import REPA
from diffx_plugins.sprint import SPRINT, places_in_groups
from diffx_plugins.sprint.guidance import without_middle

MASKS = ("random", "structured")


@pytest.fixture(scope="module")
def sprint() -> Recording:
    return load("sprint")


@pytest.fixture(scope="module")
def backbone(sprint: Recording) -> SprintBackbone:
    return imported(sprint, "sprint")[0]


@torch.no_grad()
def test_the_forward_agrees(sprint, backbone):
    assert_agrees(backbone(sprint["x"], sprint["t"], sprint["y"]), sprint["out"])


@torch.no_grad()
def test_the_forward_without_label_and_middle_blocks_agrees(sprint, backbone):
    """The recording doubles the batch: the first half is conditional, the second is what guidance goes away from."""
    x, t = sprint["x"], sprint["t"]
    halves = [backbone(x, t, sprint["y"]), without_middle(backbone, x, t, torch.full_like(sprint["y"], 9))]
    assert_agrees(torch.cat(halves), sprint["path_drop_guidance"])


def test_the_drawn_masks_are_the_recorded_ones(sprint):
    noise, kept = sprint["structured.draw2_rand"], sprint["structured.ids_keep"]
    assert torch.equal(places_in_groups(noise, columns=2, stay=1), kept.sort(1).values)
    noise, kept = sprint["random.draw2_rand"], sprint["random.ids_keep"]
    assert torch.equal(noise.argsort(1)[:, : kept.shape[1]], kept)


@torch.no_grad()
@pytest.mark.parametrize("mask", MASKS)
def test_the_training_losses_and_the_tokens_aligned_inside_the_middle_agree(sprint, backbone, mask):
    config, objective = sprint.config, Interpolant()
    t, noise = sprint[f"{mask}.draw0_randn"].sigmoid(), sprint[f"{mask}.draw1_randn_like"]
    plugins = {"sprint": SPRINT(mask=mask), "repa": REPA(config["representation_depth"] - 1, encoder="embedded")}
    for plugin in plugins.values():
        plugin.setup(backbone)
    hidden, features = config["projector_hidden_dim"], config["dim_projection"]
    width = config["hidden_size"]
    projector = (nn.Linear(width, hidden), nn.SiLU(), nn.Linear(hidden, hidden), nn.SiLU(), nn.Linear(hidden, features))
    plugins["repa"].projectors[0] = nn.Sequential(*projector)
    plugins["repa"].load_state_dict(imported(sprint, "sprint")[1], strict=True)

    view = make_view(MAIN, backbone, plugins)
    kept = sprint[f"{mask}.ids_keep"]
    assert view.kept["sprint"] == (kept.shape[1],)
    aux = {
        "sprint": {"keep": kept, "path_dropped": sprint[f"{mask}.draw3_rand"] < config["cfg_mask_prob"]},
        "repa": {"features/embedded": sprint["features"]},
    }
    x_t = objective.noised(sprint["x"], noise, t)
    out, seen = walk_with_plugins(backbone, view, plugins, x_t, t, sprint["y"], aux)
    assert_agrees(objective.loss(out, sprint["x"], noise, t).mean(), sprint[f"{mask}.denoise"])
    (tokens,) = seen["repa"].values()
    assert_agrees(plugins["repa"].projectors[0](tokens.x), sprint[f"{mask}.projected"])
    assert_agrees(plugins["repa"].loss(seen["repa"], out, aux["repa"]), sprint[f"{mask}.align"])
