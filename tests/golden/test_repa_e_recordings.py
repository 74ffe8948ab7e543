"""Agreement with End2End-Diffusion/REPA-E: both passes, their gradients, and the statistics after the step."""

import pytest
import torch
from recordings import Recording, assert_agrees, load, part, plain_backbone
from torch import Tensor, nn

from diffx.objective import Interpolant
from diffx.planner import make_plan
from diffx.step import Draws, losses
from diffx_plugins.repa import REPA
from diffx_plugins.repa_e import REPAE, Encoded
from diffx_plugins.repa_e.latent_norm import LatentNorm
from diffx_plugins.repa_e.losses import PatchDiscriminator, hinge

FEATURES = "features/recorded"
TOLERANCE = 1e-6


class Step:
    """One step from the recorded latents: both passes, and one backward through what they have added up."""

    def __init__(self, recorded: Recording) -> None:
        without = {key: w for key, w in recorded.weights.items() if not key.startswith("bn.")}
        self.backbone = plain_backbone(Recording(recorded.config, without, recorded.io)).train()
        self.repa = REPA(depth=recorded.config["encoder_depth"], projector_dim=40, weight=0.5)
        self.repa.setup(self.backbone)
        self.repa.projectors[0][4] = nn.Linear(40, recorded.config["z_dims"][0])
        self.repa.projectors.load_state_dict(part(recorded.weights, "projectors."), strict=True)
        self.repa.needs = (FEATURES,)
        plugins, objective = {"repa": self.repa}, Interpolant()
        component = REPAE(perceptual=0, adversarial=0)
        component.norm = self.norm = LatentNorm(4)
        self.norm.mean.copy_(recorded["bn.running_mean.before"])
        self.norm.var.copy_(recorded["bn.running_var.before"])
        component.setup(self.backbone, plugins)

        self.z = recorded["z"].clone().requires_grad_(True)
        seen = self.norm.by_running(self.z)
        latents = self.norm.by_batch(self.z.detach())
        noise, y, features = recorded["draw1_randn_like"], recorded["y"], {FEATURES: recorded["features"]}
        t = recorded["draw0_rand"].flatten()
        draws = Draws(latents, t, {"main": noise}, {"main": y}, {"repa": features})
        plan = make_plan(self.backbone, plugins, {FEATURES})
        self.terms = losses(self.backbone, plan, plugins, objective, draws)
        nothing = torch.zeros(3, 4, 8, 8)
        encoded = Encoded(nothing, nothing, nothing, nothing, seen, y)
        self.aligned = component.alignment(encoded, draws, self.backbone, self.repa, objective)
        (self.terms["total"] + 1.5 * self.aligned).backward()


@pytest.fixture(scope="module")
def repa_e() -> Recording:
    return load("repa_e")


@pytest.fixture(scope="module")
def step(repa_e: Recording) -> Step:
    return Step(repa_e)


def test_the_pass_for_the_encoder_has_the_recorded_alignment_and_gradient(repa_e, step):
    assert_agrees(step.aligned, repa_e["vae_pass.align"], TOLERANCE)
    assert_agrees(step.z.grad, repa_e["vae_pass.z_grad_of_1.5_align"], TOLERANCE)


def test_the_networks_own_pass_has_the_recorded_losses_and_gradients(repa_e, step):
    assert_agrees(step.terms["denoise"], repa_e["sit_pass.denoise"].mean(), TOLERANCE)
    assert_agrees(step.terms["repa"], repa_e["sit_pass.align"], TOLERANCE)
    assert_agrees(patch_weights(step).grad, repa_e["sit_pass.grad_x_embedder"], TOLERANCE)
    assert_agrees(step.repa.projectors[0][0].weight.grad, repa_e["sit_pass.grad_projector0"], TOLERANCE)


def test_the_statistics_after_the_step_are_the_recorded_ones(repa_e, step):
    assert_agrees(step.norm.mean, repa_e["bn.running_mean.after"], TOLERANCE)
    assert_agrees(step.norm.var, repa_e["bn.running_var.after"], TOLERANCE)


def patch_weights(step: Step) -> Tensor:
    return step.backbone.get_parameter("x_embedder.proj.weight")


def test_the_discriminator_and_its_losses_agree(tmp_path):
    recorded = load("repa_e_discriminator")
    torch.save(recorded.weights, tmp_path / "discriminator.pt")
    discriminator = PatchDiscriminator(3, **recorded.config)
    discriminator.load(tmp_path / "discriminator.pt")
    discriminator.to(recorded["real"].device)
    real, made = discriminator(recorded["real"]), discriminator(recorded["made"])
    assert_agrees(real.detach(), recorded["logits_real"])
    assert_agrees(made.detach(), recorded["logits_made"])
    loss = hinge(real, made)
    assert_agrees(loss.detach(), recorded["loss"])
    loss.backward()
    assert_agrees(discriminator.main[2].weight.grad, recorded["grad"])
    image = recorded["made"].clone().requires_grad_(True)
    adversarial = -discriminator(image).mean()
    adversarial.backward()
    assert_agrees(adversarial.detach(), recorded["adversarial"])
    assert_agrees(image.grad, recorded["grad_made"])
