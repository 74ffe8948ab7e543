"""Agreement with Anima-Lab/MaskDiT, whose network is preconditioned as EDM has it."""

import pytest
import torch
from recordings import Recording, assert_agrees, imported, load
from torch import Tensor

from diffx.backbone import MaskDiTBackbone
from diffx.objective import EDM
from diffx.planner import MAIN, make_view
from diffx.step import fed, walk_with_plugins
from diffx_plugins.maskdit import MaskDiT


@pytest.fixture(scope="module")
def maskdit() -> Recording:
    return load("maskdit")


@pytest.fixture(scope="module")
def backbone(maskdit: Recording) -> MaskDiTBackbone:
    return imported(maskdit, "maskdit")[0]


@pytest.fixture(scope="module")
def objective(maskdit: Recording) -> EDM:
    config = maskdit.config
    return EDM(config["P_mean"], config["P_std"], config["sigma_data"])


@pytest.fixture(scope="module")
def plugin(maskdit: Recording, backbone: MaskDiTBackbone, objective: EDM) -> MaskDiT:
    plugin = MaskDiT(maskdit.config["mask_ratio"], maskdit.config["mae_loss_coef"])
    plugin.objective = objective
    plugin.setup(backbone)
    plugin.load_state_dict(imported(maskdit, "maskdit")[1], strict=True)
    return plugin


def labels(maskdit: Recording) -> Tensor:
    """A null label, behind the classes, is a row of zeros there."""
    onehot = maskdit["onehot"]
    return torch.where(onehot.any(1), onehot.argmax(1), onehot.shape[1])


@torch.no_grad()
def test_the_network_and_the_denoised_data_agree(maskdit, backbone, objective):
    x, sigma, y = maskdit["x"], maskdit["sigma"], labels(maskdit)
    assert_agrees(backbone(x, sigma.log() / 4, y), maskdit["network"])
    assert_agrees(objective.data(backbone(*objective.inputs(x, sigma), y), x, sigma), maskdit["denoised"])


@torch.no_grad()
def test_the_losses_of_visible_and_masked_patches_agree(maskdit, backbone, objective, plugin):
    sigma = (objective.mean + objective.std * maskdit["draw0_randn"].flatten()).exp()
    noise = maskdit["draw1_randn_like"]
    kept = backbone.grid_tokens // 2
    keep = maskdit["draw2_rand"].argsort(1)[:, :kept]
    view = make_view(MAIN, backbone, {"maskdit": plugin})
    assert view.kept["maskdit"] == (kept,)
    assert torch.equal(torch.ones(3, 16).scatter(1, keep, 0.0), maskdit["train.mask"])
    noisy = objective.noised(maskdit["x"], noise, sigma)
    aux = {"keep": keep, "noisy": noisy, "t": sigma}
    x_in, t_in = fed(objective, backbone.side, maskdit["x"], noise, sigma)
    out, seen = walk_with_plugins(backbone, view, {"maskdit": plugin}, x_in, t_in, labels(maskdit), {"maskdit": aux})
    weights = plugin.visible(aux)
    errors = objective.errors(out, maskdit["x"], noise, sigma).mean(1, keepdim=True)
    main = (errors * weights).flatten(1).sum(1) / weights.flatten(1).sum(1)
    assert_agrees(main, maskdit["train.main"])
    total = main.mean() + plugin.initial_weights[""] * plugin.loss(seen["maskdit"], out, aux)
    assert_agrees(total, maskdit["train.total"].mean())
    # What masked patches add is a small part of the total: a difference of two recordings, each rounded in 1e-7 of it.
    recorded = (maskdit["train.total"] - maskdit["train.main"]).mean() / plugin.initial_weights[""]
    assert_agrees(plugin.loss(seen["maskdit"], out, aux), recorded)


@torch.no_grad()
def test_the_loss_of_a_pass_without_a_mask_agrees(maskdit, backbone, objective):
    sigma = (objective.mean + objective.std * maskdit["draw0_randn"].flatten()).exp()
    x, noise = maskdit["x"], maskdit["draw1_randn_like"]
    out = backbone(*fed(objective, backbone.side, x, noise, sigma), labels(maskdit))
    assert_agrees(objective.loss(out, x, noise, sigma), maskdit["unmasked.loss"])
