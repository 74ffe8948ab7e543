"""REPA-E: who gets which gradient, the normalisation of latents, the losses beside it, runs on the embedded data."""

import copy
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
import torch.nn.functional as F
import torchvision
from safetensors.torch import load_file
from torchmetrics.functional.image.lpips import _LPIPS

from diffx import step
from diffx.assemble.flops import flops_of
from diffx.assemble.parts import assemble
from diffx.commands.plan import print_plan
from diffx.commands.sample import main as sample
from diffx.config.compose import compose_config
from diffx.embedded.architecture import SmallAutoencoder
from diffx.end_to_end import clip_group, frozen
from diffx.errors import DiffxError
from diffx.evaluation.evaluation import Evaluation
from diffx.evaluation.sample_set import decoder
from diffx.pixels.values import to_uint8
from diffx.plugin import Span
from diffx.run.folder import RunDir
from diffx.streams import Streams
from diffx.testing import tiny_backbone
from diffx.train.clock import Meter
from diffx.train.loop import make_module, train
from diffx_plugins.layersync import LayerSync
from diffx_plugins.repa import REPA
from diffx_plugins.repa_e import REPAE
from diffx_plugins.repa_e.latent_norm import LatentNorm
from diffx_plugins.repa_e.losses import LPIPS, PatchDiscriminator, divergence, hinge
from tests import forks
from tests.golden.recordings import part
from tests.run.conftest import OFTEN, SMALL

SHAPES = [
    "+experiment=repa_e_shapes",
    *(key for key in SMALL if not key.startswith("backbone.patch_size")),
    "data.source.count=300",
    "eval.samples=20",
    "plugins.repa.projector_dim=32",
    "max_steps=4",
]


def settings_of(folder: Path, *more: str) -> object:
    return compose_config([*SHAPES, f"runs_dir={folder}", *more])


@pytest.fixture(scope="module")
def stepped(tmp_path_factory):
    """A training module after one forward and backward of its step, and what it was before."""
    settings = settings_of(tmp_path_factory.mktemp("runs"))
    parts = assemble(settings)
    component, model = parts.end_to_end, parts.model
    module = make_module(settings, parts, Meter(parts.device))
    before = copy.deepcopy(component.state_dict())
    batch = parts.data.batch(torch.arange(8))
    batch, encoded = component.encode(batch, Streams(0, 0))
    draws = step.draw(
        model.backbone, model.plan, model.plugins, model.objective, batch, parts.services, Streams(0, 0), 0.1
    )
    return component, model, encoded, draws, before, module


def gradients(module, loss) -> dict[str, torch.Tensor | None]:
    named = [(name, p) for name, p in module.named_parameters() if p.requires_grad]
    found = torch.autograd.grad(loss, [p for _, p in named], allow_unused=True, retain_graph=True)
    return {name: g for (name, _), g in zip(named, found, strict=True)}


def test_the_encoders_losses_reach_the_autoencoder_and_no_parameter_of_the_network(stepped):
    component, model, encoded, draws, _, module = stepped
    terms = component.losses(encoded, draws, model.backbone, model.plugins, model.objective)
    reached = {name for name, g in gradients(module, terms["total"]).items() if g is not None and g.abs().sum() > 0}
    assert {clip_group(name) for name in reached} == {"autoencoder", "discriminator"}
    aligned = gradients(module, terms["autoencoder/align"])
    assert all(g is None for name, g in aligned.items() if "autoencoder.encoder" not in name)
    assert any(g is not None and g.abs().sum() > 0 for g in aligned.values())


def test_the_networks_losses_do_not_reach_the_autoencoder(stepped):
    _, model, _, draws, _, module = stepped
    total = step.losses(model.backbone, model.plan, model.plugins, model.objective, draws)["total"]
    assert not draws.x.requires_grad
    assert all(g is None for name, g in gradients(module, total).items() if name.startswith("end_to_end."))


def test_the_discriminator_learns_from_its_own_loss_alone(stepped):
    component, model, encoded, draws, _, module = stepped
    terms = component.losses(encoded, draws, model.backbone, model.plugins, model.objective)
    to_it = {name for name, g in gradients(module, terms["autoencoder/discriminator"]).items() if g is not None}
    assert {clip_group(name) for name in to_it} == {"discriminator"}
    verdict = gradients(module, terms["autoencoder/adversarial"])
    assert all(g is None for name, g in verdict.items() if clip_group(name) == "discriminator")


def test_the_total_is_the_weighted_terms_and_the_discriminators_loss(stepped):
    component, model, encoded, draws, _, _ = stepped
    terms = component.losses(encoded, draws, model.backbone, model.plugins, model.objective)
    wanted = terms["autoencoder/discriminator"]
    for name, weight in component.weights.items():
        wanted = wanted + weight * terms.get(f"autoencoder/{name}", 0.0)
    torch.testing.assert_close(terms["total"], wanted)
    torch.testing.assert_close(terms["autoencoder/adversarial"], -component.discriminator(encoded.decoded).mean())
    assert {"align", "reconstruction", "adversarial", "kl"} <= {name.removeprefix("autoencoder/") for name in terms}
    assert component.weights["align"] != component.weights["reconstruction"]


def test_the_latents_a_network_sees_are_those_of_the_batchs_statistics(stepped):
    component, _, encoded, draws, before, _ = stepped
    torch.testing.assert_close(draws.x.mean((0, 2, 3)), torch.zeros(4), rtol=0, atol=1e-5)
    torch.testing.assert_close(draws.x.var((0, 2, 3), unbiased=False), torch.ones(4), rtol=1e-3, atol=1e-3)
    assert not torch.equal(component.norm.mean, before["norm.mean"])
    assert encoded.seen.requires_grad


def test_the_normalisation_is_batchnorm_without_affine():
    ours, theirs = LatentNorm(4), torch.nn.BatchNorm2d(4, eps=1e-4, affine=False)
    for i in range(3):
        z = torch.randn(5, 4, 3, 3, generator=torch.Generator().manual_seed(i)) * 2 + 1
        torch.testing.assert_close(ours.by_batch(z), theirs(z))
    torch.testing.assert_close(ours.mean, theirs.running_mean)
    torch.testing.assert_close(ours.var, theirs.running_var)
    torch.testing.assert_close(ours.by_running(z), theirs.eval()(z))


class BothPasses(torch.nn.Module):
    """A layer that is frozen for one of its two passes."""

    def __init__(self) -> None:
        super().__init__()
        self.before, self.layer = torch.nn.Linear(3, 3), torch.nn.Linear(3, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        z = self.before(x)
        with frozen(self.layer):
            seen = self.layer(z).mean()
        return seen + self.layer(z.detach()).square().mean()


def on_one_rank(rank: int, raw: torch.Tensor, module: BothPasses, x: torch.Tensor, folder: str) -> None:
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2)
    norm = LatentNorm(4)
    out = norm.by_batch(raw[rank::2])
    wrapped = torch.nn.parallel.DistributedDataParallel(module)
    for _ in range(2):  # a parameter that DDP waits for in vain shows in the second step
        module.zero_grad()
        wrapped(x[rank::2]).backward()
    found = {"out": out, "mean": norm.mean, "var": norm.var, "gradients": [p.grad for p in module.parameters()]}
    torch.save(found, f"{folder}/{rank}.pt")
    dist.barrier()
    dist.destroy_process_group()


@pytest.mark.slow
def test_two_ranks_normalise_by_all_samples_and_share_the_gradients_of_both_passes(tmp_path):
    torch.manual_seed(0)
    raw, module, x = torch.randn(6, 4, 3, 3), BothPasses(), torch.randn(8, 3)
    forks.ranks(on_one_rank, raw, module, x, str(tmp_path))
    norm = LatentNorm(4)
    out = norm.by_batch(raw)
    module(x).backward()
    for rank in range(2):
        found = torch.load(tmp_path / f"{rank}.pt")
        torch.testing.assert_close(found["out"], out[rank::2])
        torch.testing.assert_close([found["mean"], found["var"]], [norm.mean, norm.var])
        torch.testing.assert_close(found["gradients"], [p.grad for p in module.parameters()])


def test_a_batch_that_is_not_finite_leaves_the_statistics_alone():
    norm = LatentNorm(2)
    norm.by_batch(torch.full((2, 2, 3, 3), float("nan")))
    assert norm.mean.tolist() == [0, 0]


def test_what_is_undone_is_what_was_normalised_by_the_averages():
    norm, z = LatentNorm(4), torch.randn(2, 4, 3, 3)
    norm.begin([1.0, 2.0, 3.0, 4.0], [0.5])
    assert norm.var.tolist() == [4.0] * 4
    torch.testing.assert_close(norm.undone(norm.by_running(z)), z, rtol=1e-5, atol=1e-5)


def test_averages_of_the_statistics_follow_by_the_decay_and_stay_after_a_bad_step():
    norm = LatentNorm(2)
    norm.mean.copy_(torch.tensor([1.0, 2.0]))
    norm.var.copy_(torch.tensor([3.0, 5.0]))
    norm.follow(torch.tensor(True), 0.75)
    assert (norm.average_mean.tolist(), norm.average_var.tolist()) == ([0, 0], [1, 1])
    norm.follow(torch.tensor(False), 0.75)
    assert (norm.average_mean.tolist(), norm.average_var.tolist()) == ([0.25, 0.5], [1.5, 2.0])


def test_the_divergence_is_that_of_torch():
    mean, std = torch.randn(3, 2, 4, 4), torch.rand(3, 2, 4, 4) + 0.1
    own, normal = torch.distributions.Normal(mean, std), torch.distributions.Normal(0.0, 1.0)
    expected = torch.distributions.kl_divergence(own, normal).sum((1, 2, 3)).mean()
    torch.testing.assert_close(divergence(mean, std), expected)


def test_hinge_is_zero_where_the_discriminator_is_sure_and_one_where_it_knows_nothing():
    assert hinge(torch.tensor([2.0]), torch.tensor([-2.0])) == 0
    assert hinge(torch.zeros(3), torch.zeros(3)) == 1


def test_a_discriminator_judges_patches():
    assert PatchDiscriminator(3, 16, 2)(torch.zeros(2, 3, 32, 32)).shape == (2, 1, 6, 6)


def test_a_fresh_discriminator_begins_as_the_authors():
    """Weights of convolutions N(0, 0.02²), scales of BatchNorm N(1, 0.02²); its shifts are zero."""
    torch.manual_seed(0)
    for layer in PatchDiscriminator(3).main:
        if isinstance(layer, torch.nn.Conv2d):
            assert layer.weight.std().item() == pytest.approx(0.02, rel=0.1)
        elif isinstance(layer, torch.nn.BatchNorm2d):
            assert layer.weight.std().item() == pytest.approx(0.02, rel=0.2)
            assert layer.weight.mean().item() == pytest.approx(1, abs=0.01)
            assert not layer.bias.any()


def test_a_discriminators_file_that_is_not_there_or_another_networks_is_refused(tmp_path):
    with pytest.raises(DiffxError, match=r"d\.pt does not exist; type the file, or null"):
        PatchDiscriminator(3, 8, 2).load(tmp_path / "d.pt")
    torch.save(PatchDiscriminator(3, 16, 2).state_dict(), tmp_path / "d.pt")
    with pytest.raises(DiffxError, match="not of a discriminator of 8 channels"):
        PatchDiscriminator(3, 8, 2).load(tmp_path / "d.pt")


def test_lpips_is_that_of_torchmetrics():
    torch.manual_seed(0)
    vgg = torchvision.models.vgg16().state_dict()
    theirs = _LPIPS(pretrained=False, net="vgg", pnet_rand=True, use_dropout=False, eval_mode=True)
    linear = {}
    for stage, width in enumerate((64, 128, 256, 512, 512)):
        linear[f"lin{stage}.model.1.weight"] = torch.rand(1, width, 1, 1)
        theirs.lins[stage].model[-1].weight.data = linear[f"lin{stage}.model.1.weight"]
        part = getattr(theirs.net, f"slice{stage + 1}")
        part.load_state_dict({key: vgg[f"features.{key}"] for key in part.state_dict()})
    ours = LPIPS().load(vgg, linear)
    a, b = torch.rand(2, 3, 32, 32) * 2 - 1, torch.rand(2, 3, 32, 32) * 2 - 1
    torch.testing.assert_close(ours(a, b), theirs(a, b).flatten(), rtol=1e-4, atol=1e-6)


def test_inside_frozen_gradients_pass_through_a_layer_and_leave_it_alone():
    layer, x = torch.nn.Linear(2, 2), torch.ones(1, 2, requires_grad=True)
    table = torch.nn.Parameter(torch.ones(1), requires_grad=False)
    layer.register_parameter("table", table)
    with frozen(layer):
        inside = layer(x).sum()
    (inside + layer(x.detach()).sum()).backward()
    torch.testing.assert_close(x.grad, layer.weight.sum(0)[None])
    torch.testing.assert_close(layer.weight.grad, torch.ones(2, 2))
    assert not table.requires_grad


def test_a_parameter_beside_autoencoder_and_discriminator_is_clipped_with_the_network():
    names = ("end_to_end.autoencoder.a", "end_to_end.discriminator.b", "end_to_end.head.c", "backbone.autoencoder.d")
    assert [clip_group(name) for name in names] == ["autoencoder", "discriminator", "", ""]


def test_each_group_is_clipped_by_its_own_norm(stepped):
    *_, module = stepped
    module.configure_optimizers()
    rng = torch.Generator().manual_seed(0)
    for name, p in module._trained:
        p.grad = torch.randn(p.shape, generator=rng) * (100 if name.startswith("end_to_end.auto") else 1e-4)
    module.terms = {"total": torch.zeros(())}
    optimizer = torch.optim.SGD([p for _, p in module._trained], lr=0.1)
    module.configure_gradient_clipping(optimizer, 1.0)
    norms = {}
    for name, p in module._trained:
        norms[clip_group(name)] = norms.get(clip_group(name), 0.0) + p.grad.square().sum().item()
    assert norms["autoencoder"] == pytest.approx(1.0, rel=1e-3)
    assert 0 < norms[""] < 1
    assert module.gradient_norm.square().item() == pytest.approx(norms[""], rel=1e-3)


def test_its_cost_is_in_the_step_and_in_the_plan(capsys):
    print_plan(SHAPES)
    both = capsys.readouterr().out
    assert "of it in the autoencoder, which is trained too" in both
    settings = compose_config(SHAPES)
    flops = assemble(settings).flops
    frozen_flops = assemble(compose_config([*SHAPES, "end_to_end=none"])).flops
    image = torch.zeros(1, 3, 32, 32)
    network = SmallAutoencoder(3)
    once = flops_of(network.encode, image) + flops_of(network.decode, torch.zeros(1, 4, 8, 8))
    assert flops.train == frozen_flops.train + flops.autoencoder
    assert flops.autoencoder > 2.9 * once  # forward and backward of it, and the frozen pass and discriminator


def test_a_run_resumes_to_the_same_numbers_and_is_sampled_by_its_own_autoencoder(tmp_path, monkeypatch):
    whole = train(settings_of(tmp_path / "whole"))
    assert whole.read_record()["status"] == "complete"
    assert whole.read_record()["label"] == "repa+end_to_end"
    train(settings_of(tmp_path / "halved", "max_steps=2", *OFTEN))
    resumed = train(settings_of(tmp_path / "halved", *OFTEN))
    ours, theirs = load_file(resumed.autoencoder_weights), load_file(whole.autoencoder_weights)
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[key], theirs[key]) for key in ours)
    assert not torch.equal(ours["norm.mean"], ours["norm.average_mean"])
    x, network = torch.randn(2, 4, 8, 8), SmallAutoencoder(3)
    network.load_state_dict(part(ours, "autoencoder."))
    deviation = (ours["norm.average_var"] + 1e-4).sqrt()
    with torch.no_grad():
        images = network.decode(x * deviation.view(-1, 1, 1) + ours["norm.average_mean"].view(-1, 1, 1))
    decode = decoder(settings_of(tmp_path / "halved"), resumed.ema_weights)
    assert torch.equal(decode(x), to_uint8(images, "nearest"))
    sample([str(resumed.path), "-n", "2", "sampler.nfe=2"])
    assert (resumed.path / "samples" / "samples.npz").exists()
    resumed.autoencoder_weights.unlink()
    with pytest.raises(SystemExit):
        sample([str(resumed.path), "-n", "3", "sampler.nfe=2"])


def test_an_evaluation_decodes_by_the_autoencoder_that_is_trained(tmp_path):
    settings = settings_of(tmp_path)
    parts = assemble(settings)
    assert Evaluation(settings, RunDir.of(settings), parts).decode == parts.end_to_end.decode


def test_its_published_setting_composes():
    settings = compose_config(["+experiment=repa_e_xl"])
    assert (settings.end_to_end.align, settings.plugins["repa"].weight, settings.autoencoder) == (
        1.5,
        0.5,
        "sd_vae_mse",
    )
    assert (settings.end_to_end.adversarial, settings.end_to_end.kl, settings.end_to_end.clip) == (0.1, 1e-6, 1.0)


@pytest.mark.parametrize(
    ("typed", "sentence"),
    [
        (["trainer.strategy=fsdp"], "shards the network that end_to_end holds still"),
        (["trainer.activation_checkpointing=true"], "runs blocks again in the backward pass"),
        (["data=shapes"], "made of pixels; type data=shapes_latent"),
    ],
)
def test_what_it_does_not_go_with_is_one_sentence(typed, sentence):
    with pytest.raises(DiffxError, match=sentence):
        compose_config([*SHAPES, *typed])


def test_it_needs_a_plugin_that_only_reads():
    backbone, component = tiny_backbone(), REPAE(perceptual=0)
    with pytest.raises(DiffxError, match=r"which plugins= has not chosen; type plugins=\[repa\]"):
        component.setup(backbone, {})
    layersync = LayerSync(1, 2)
    layersync.setup(backbone)
    with pytest.raises(DiffxError, match=r"type end_to_end\.plugin=repa"):
        REPAE("layersync", perceptual=0, align=-0.0).setup(backbone, {"layersync": _span(layersync)})


def test_the_plugin_may_not_stop_before_the_autoencoder_does():
    repa, backbone = REPA(2, encoder="embedded", projector_dim=16), tiny_backbone()
    repa.setup(backbone)
    repa.stop = 10
    with pytest.raises(DiffxError, match=r"type plugins\.repa\.stop=null"):
        REPAE(perceptual=0).setup(backbone, {"repa": repa})


def _span(plugin):
    plugin.span = Span(1, 2, 0.5)
    return plugin


def test_lpips_without_its_weights_is_asked_for(tmp_path, monkeypatch):
    monkeypatch.setenv("DIFFX_WEIGHTS", str(tmp_path))
    repa = REPA(2, encoder="embedded", projector_dim=16)
    backbone = tiny_backbone()
    repa.setup(backbone)
    component = REPAE(discriminator=str(tmp_path / "d.pt"))
    component.setup(backbone, {"repa": repa})
    trained = PatchDiscriminator(3).state_dict()
    torch.save(trained, tmp_path / "d.pt")
    with pytest.raises(DiffxError, match=r"needs VGG-16.*or type end_to_end\.perceptual=0"):
        component.load()
    torch.save(torchvision.models.vgg16().state_dict(), tmp_path / "vgg16.pth")
    component.load()
    assert torch.equal(component.discriminator.main[0].weight, trained["main.0.weight"])
    a = torch.rand(1, 3, 32, 32)
    assert F.mse_loss(component._lpips[0](a, a), torch.zeros(1)) == 0
    assert component._lpips[0](a, -a) > 0  # whose layers' weights are zeros until they are loaded


def test_an_autoencoder_without_a_posterior_is_refused():
    network = SmallAutoencoder(3)
    network.posterior = False
    with pytest.raises(DiffxError, match="has no posterior"):
        REPAE().hold(network, [0.0], [1.0])
