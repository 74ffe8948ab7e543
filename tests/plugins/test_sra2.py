"""SRA 2: what the autoencoder's middle gives, what is aligned with it, and where there is none."""

import pytest
import torch
import torch.nn.functional as F

from diffx.assemble.parts import assemble
from diffx.assemble.services import Surroundings
from diffx.config.compose import compose_config
from diffx.data import Digits
from diffx.errors import DiffxError
from diffx.frozen.autoencoder import load_autoencoder
from diffx.testing import BATCH, TinyRun, tiny_backbone
from diffx.train.loop import train
from diffx_plugins.sra2 import SRA2
from diffx_plugins.sra2.features import AutoencoderProvider
from diffx_plugins.tread import TREAD
from tests.prepare.made_sources import tiny_autoencoder
from tests.run.made_latents import NARROW, SMALL_LATENTS, made_latents

FEATURES = torch.randn(BATCH, 16, 512, generator=torch.Generator().manual_seed(1))


def run_with(features: torch.Tensor = FEATURES, beside: dict | None = None, **settings) -> TinyRun:
    service = lambda x: features  # noqa: E731
    service.takes = ("x",)
    return TinyRun({"sra2": SRA2(**settings), **(beside or {})}, tiny_backbone(), {"autoencoder/512": service})


@pytest.fixture(scope="module")
def latents(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    return made_latents(folder / "made", tiny_autoencoder(folder / "autoencoder", levels=4)), folder / "autoencoder"


def overrides(root, *more: str) -> list[str]:
    small = ["backbone=tiny", "plugins.sra2.depth=2", *NARROW, *SMALL_LATENTS]
    return ["+experiment=sra2_xl", *small, f"data.source.root={root}", *more]


@pytest.mark.parametrize("loss", ["smooth_l1", "cosine"])
def test_the_loss_is_that_of_normalised_features_through_one_linear_layer(loss):
    run = run_with(loss=loss)
    plugin, seen = run.plugins["sra2"], {}
    plugin.loss, inner = lambda s, out, aux: seen.update(s) or inner(s, out, aux), plugin.loss
    value = run.losses(run.draws())["sra2"]
    projected = seen[2].x @ plugin.projector.weight.T + plugin.projector.bias
    centred = FEATURES - FEATURES.mean(-1, keepdim=True)
    target = centred / (centred.square().mean(-1, keepdim=True) + 1e-5).sqrt()
    away = (projected - target).abs()
    smooth = torch.where(away < 0.05, away.square() / 0.1, away - 0.025).mean()
    wanted = smooth if loss == "smooth_l1" else -F.cosine_similarity(projected, target, dim=-1).mean()
    torch.testing.assert_close(value, wanted)


def test_inside_a_route_each_token_meets_the_features_of_its_place():
    run = run_with(beside={"tread": TREAD(0.5, 1, 4)}, depth=3)
    draws, seen = run.draws(), {}
    plugin, kept = run.plugins["sra2"], draws.aux["tread"]["keep"]
    plugin.loss, inner = lambda s, out, aux: seen.update(s) or inner(s, out, aux), plugin.loss
    value = run.losses(draws)["sra2"]
    target = torch.stack([F.layer_norm(FEATURES, (512,))[k, kept[k]] for k in range(BATCH)])
    torch.testing.assert_close(value, F.smooth_l1_loss(plugin.projector(seen[3].x), target, beta=0.05))


def test_the_features_are_what_passes_the_middle_of_the_decoder_while_it_decodes(latents):
    root, folder = latents
    autoencoder, raw, passed = load_autoencoder(str(folder)), torch.randn(3, 4, 8, 8), []
    autoencoder.network.net.decoder.mid_block.register_forward_hook(lambda layer, given, out: passed.append(out))
    autoencoder.decode(raw)
    assert torch.equal(autoencoder.features(raw), passed[0])
    data = assemble(compose_config(overrides(root, "plugins.sra2.width=8"))).data
    x = (raw - 0.0) * 0.18215
    torch.testing.assert_close(data.autoencoder_features(x), passed[0], rtol=1e-4, atol=1e-5)


def test_a_tokens_features_are_the_mean_over_its_patch_and_their_operations_are_counted(latents):
    parts = assemble(compose_config(overrides(latents[0], "plugins.sra2.width=8")))
    service, x = parts.services["autoencoder/8"], torch.randn(2, 4, 8, 8)
    whole = parts.data.autoencoder_features(x)
    torch.testing.assert_close(service(x)[:, 5], whole[:, :, 2:4, 2:4].mean((2, 3)))
    # The layer before the decoder, its first, two blocks of two convolutions, an attention of four layers.
    convolutions = [(4, 4, 1), (4, 8, 9), *[(8, 8, 9)] * 4, *[(8, 8, 1)] * 4]
    assert parts.flops.encoder >= 2 * 64 * sum(a * b * k for a, b, k in convolutions)


def test_a_run_trains_two_steps_on_latents(latents, tmp_path):
    run = train(compose_config(overrides(latents[0], "plugins.sra2.width=8", f"runs_dir={tmp_path}")))
    assert run.read_record()["status"] == "complete"
    assert run.last_point(2) == 2


def test_another_width_than_the_autoencoders_is_refused_with_the_one_to_type(latents):
    with pytest.raises(DiffxError, match=r"type plugins\.sra2\.width=8\."):
        assemble(compose_config(overrides(latents[0])))


def test_pixels_have_no_autoencoder_and_are_refused():
    from diffx.assemble.model import build_model

    with pytest.raises(DiffxError, match=r"plugins\.sra2 .* this data is pixels; type data=imagenet256"):
        build_model(compose_config(["plugins=[sra2]"]), "meta")
    with pytest.raises(DiffxError, match="a Digits has none; type data=imagenet256"):
        AutoencoderProvider().make("512", Surroundings(tiny_backbone(), 64, Digits()))


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"loss": "l3"}, r"loss=l3 is not known; type one of smooth_l1, cosine"),
        ({"depth": 7}, r"depth=7 counts blocks from 1, and the backbone has 6"),
        ({"width": 0}, r"type 512"),
        ({"weight": -1.0}, r"weight=-1\.0 is not a finite number"),
    ],
)
def test_a_setting_that_is_none_is_refused(settings, sentence):
    with pytest.raises(DiffxError, match=sentence):
        run_with(**settings)
