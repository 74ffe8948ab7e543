"""Every kind of autoencoder: what a tiny one in its official layout makes, and the sentences for what does not fit."""

import json
import math
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL
from diffusers.loaders.single_file_utils import convert_ldm_vae_checkpoint
from torch import Tensor

from diffx.assemble.latents import autoencoder_flops, describe_autoencoder
from diffx.assemble.ready import look
from diffx.commands.prepare import main
from diffx.config.compose import compose_config, config_dir
from diffx.data.latents import Latents
from diffx.errors import DiffxError
from diffx.frozen import autoencoder as autoencoders
from diffx.frozen import autoencoder_ldm, autoencoder_rae
from diffx.frozen.autoencoder import SPECS, AutoencoderSpec, load_autoencoder
from diffx.frozen.autoencoder_diffusers import KL
from diffx.frozen.encoder import SPECS as ENCODERS
from diffx.frozen.encoder import EncoderSpec
from diffx.frozen.latent_statistics import read_statistics
from diffx.frozen.vision import VisionModel
from diffx.prepare.encode import prepare_latents
from diffx.prepare.images import prepare_images
from diffx.prepare.reconstruction import check_reconstruction, psnr
from tests.prepare.made_sources import tiny_autoencoder

IMAGES = torch.randint(0, 256, (2, 3, 16, 16), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
X = IMAGES / 127.5 - 1


@pytest.fixture
def root(source: Path, tmp_path: Path) -> Path:
    prepare_images(str(source), tmp_path / "root", 16)
    return tmp_path / "root"


@pytest.fixture
def weights(tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv("DIFFX_WEIGHTS", str(tmp_path / "weights"))
    (tmp_path / "weights").mkdir()
    return tmp_path / "weights"


def ldm_state(attention: bool = True) -> dict[str, Tensor]:
    """Random weights of a checkpoint of latent diffusion: two levels of 32 and 64 channels, one block each."""
    shapes: dict[str, tuple[int, ...]] = {}

    def norm(key: str, size: int) -> None:
        shapes.update({f"{key}.weight": (size,), f"{key}.bias": (size,)})

    def conv(key: str, a: int, b: int, k: int = 3) -> None:
        shapes.update({f"{key}.weight": (b, a, k, k), f"{key}.bias": (b,)})

    def block(key: str, a: int, b: int) -> None:
        norm(f"{key}.norm1", a)
        conv(f"{key}.conv1", a, b)
        norm(f"{key}.norm2", b)
        conv(f"{key}.conv2", b, b)
        if a != b:
            conv(f"{key}.nin_shortcut", a, b, 1)

    def attend(key: str, size: int) -> None:
        norm(f"{key}.norm", size)
        for name in ("q", "k", "v", "proj_out"):
            conv(f"{key}.{name}", size, size, 1)

    def middle(key: str) -> None:
        block(f"{key}.mid.block_1", 64, 64)
        attend(f"{key}.mid.attn_1", 64)
        block(f"{key}.mid.block_2", 64, 64)

    conv("encoder.conv_in", 3, 32)
    block("encoder.down.0.block.0", 32, 32)
    conv("encoder.down.0.downsample.conv", 32, 32)
    block("encoder.down.1.block.0", 32, 64)
    middle("encoder")
    norm("encoder.norm_out", 64)
    conv("encoder.conv_out", 64, 8)
    conv("quant_conv", 8, 8, 1)
    conv("post_quant_conv", 4, 4, 1)
    conv("decoder.conv_in", 4, 64)
    middle("decoder")
    for i, (a, b) in enumerate([(64, 64), (64, 64)]):
        block(f"decoder.up.1.block.{i}", a, b)
    conv("decoder.up.1.upsample.conv", 64, 64)
    for i, (a, b) in enumerate([(64, 32), (32, 32)]):
        block(f"decoder.up.0.block.{i}", a, b)
    norm("decoder.norm_out", 32)
    conv("decoder.conv_out", 32, 3)
    if attention:
        attend("encoder.down.1.attn.0", 64)
        attend("decoder.up.1.attn.0", 64)
        attend("decoder.up.1.attn.1", 64)
    rng = torch.Generator().manual_seed(1)
    return {key: torch.randn(shape, generator=rng) * 0.1 for key, shape in shapes.items()}


def encoded_by_formula(w: dict[str, Tensor], x: Tensor) -> Tensor:
    """Latent diffusion's encoder, written out: mean and log variance."""
    norm = lambda key, x: F.group_norm(x, 32, w[f"{key}.weight"], w[f"{key}.bias"], 1e-6)  # noqa: E731
    conv = lambda key, x, **more: F.conv2d(x, w[f"{key}.weight"], w[f"{key}.bias"], **more)  # noqa: E731

    def block(key: str, x: Tensor) -> Tensor:
        h = conv(f"{key}.conv1", F.silu(norm(f"{key}.norm1", x)), padding=1)
        h = conv(f"{key}.conv2", F.silu(norm(f"{key}.norm2", h)), padding=1)
        return (conv(f"{key}.nin_shortcut", x) if f"{key}.nin_shortcut.weight" in w else x) + h

    def attend(key: str, x: Tensor) -> Tensor:
        h = norm(f"{key}.norm", x)
        q, k, v = (conv(f"{key}.{name}", h).flatten(2) for name in "qkv")
        share = (q.mT @ k / math.sqrt(q.shape[1])).softmax(-1)
        return x + conv(f"{key}.proj_out", (v @ share.mT).view_as(x))

    h = block("encoder.down.0.block.0", conv("encoder.conv_in", x, padding=1))
    h = conv("encoder.down.0.downsample.conv", F.pad(h, (0, 1, 0, 1)), stride=2)
    h = attend("encoder.down.1.attn.0", block("encoder.down.1.block.0", h))
    h = attend("encoder.mid.attn_1", block("encoder.mid.block_1", h))
    h = F.silu(norm("encoder.norm_out", block("encoder.mid.block_2", h)))
    return conv("quant_conv", conv("encoder.conv_out", h, padding=1))


def vavae(folder: Path, state: dict[str, Tensor], statistics: dict[str, Tensor] | None) -> Path:
    """A folder in LightningDiT's layout: losses and the encoder that it was aligned with stand in the file too."""
    folder.mkdir(parents=True)
    others = {"loss.logvar": torch.zeros(()), "foundation_model.model.norm.weight": torch.ones(3)}
    torch.save({"state_dict": state | others, "global_step": 7}, folder / "vavae-imagenet256-f16d32-dinov2.pt")
    if statistics:
        torch.save(statistics, folder / "latents_stats.pt")
    return folder


STATISTICS = {"mean": torch.arange(4.0).view(1, 4, 1, 1), "std": torch.full((1, 4, 1, 1), 2.0)}


@torch.no_grad()
def test_a_checkpoint_of_latent_diffusion_encodes_as_its_formula_says(tmp_path):
    state = ldm_state()
    network = load_autoencoder(str(vavae(tmp_path / "vavae", state, STATISTICS)))
    mean, logvar = encoded_by_formula(state, X).chunk(2, dim=1)
    raw = network.encode(IMAGES)
    torch.testing.assert_close(raw, torch.cat([mean, (0.5 * logvar).exp()], 1), rtol=1e-4, atol=1e-4)
    assert (network.shift, network.scale) == ([0, 1, 2, 3], [0.5] * 4)


@torch.no_grad()
def test_a_checkpoint_of_latent_diffusion_decodes_as_diffusers_own_reading_of_it(tmp_path):
    state = ldm_state(attention=False)
    ours = load_autoencoder(str(vavae(tmp_path / "vavae", state, None)))
    theirs = AutoencoderKL(**autoencoder_ldm.architecture_of(state))
    theirs.load_state_dict(convert_ldm_vae_checkpoint(state, dict(theirs.config)))
    raw = torch.randn(2, 4, 8, 8)
    torch.testing.assert_close(ours.decode(raw), theirs.decode(raw).sample)


def test_the_results_of_repa_e_are_read_with_their_bias_and_scale(tmp_path):
    folder = tmp_path / "e2e"
    folder.mkdir()
    torch.save({"vae": ldm_state(False), "discriminator": {}}, folder / "e2e-vae-400k.pt")
    torch.save({"latents_bias": torch.ones(1, 4, 1, 1), "latents_scale": torch.full((1, 4, 1, 1), 3.0)},
               folder / "e2e-vae-400k-latents-stats.pt")  # fmt: skip
    network = load_autoencoder(str(folder))
    assert (network.shift, network.scale) == ([1.0] * 4, [3.0] * 4)


@pytest.fixture
def e2e_vae(weights, monkeypatch) -> Path:
    """The folder of e2e_vae, in diffusers' layout, with the factor that AutoencoderKL has by itself."""
    monkeypatch.setitem(SPECS, "e2e_vae", AutoencoderSpec(SPECS["e2e_vae"].source, 4, 2, statistics=True))
    return tiny_autoencoder(weights / "e2e_vae")


def test_an_end_to_end_tuned_autoencoder_may_have_its_statistics_in_its_configuration(e2e_vae):
    config = json.loads((e2e_vae / "config.json").read_text())
    config |= {"latents_mean": [0.5] * 4, "latents_std": [4.0] * 4}
    (e2e_vae / "config.json").write_text(json.dumps(config))
    network = load_autoencoder("e2e_vae")
    assert config["scaling_factor"] == 0.18215
    assert (network.shift, network.scale) == ([0.5] * 4, [0.25] * 4)
    by_the_hubs_name = e2e_vae.parent / "REPA-E" / "e2e-sdvae-hf"
    by_the_hubs_name.parent.mkdir()
    e2e_vae.rename(by_the_hubs_name)
    assert load_autoencoder("REPA-E/e2e-sdvae-hf").scale == load_autoencoder("e2e_vae").scale == [0.25] * 4


def test_a_factor_alone_is_no_statistics_of_an_end_to_end_tuned_autoencoder(e2e_vae):
    with pytest.raises(DiffxError, match=r"e2e_vae needs the statistics of its latents.*\*-latents-stats\.pt"):
        load_autoencoder("e2e_vae")


def test_an_end_to_end_tuned_autoencoder_may_come_as_the_authors_checkpoint(e2e_vae):
    for file in e2e_vae.iterdir():
        file.unlink()
    torch.save(ldm_state(False), e2e_vae / "e2e-sdvae-400k.pt")
    torch.save({"latents_bias": torch.ones(4), "latents_scale": torch.ones(4)},
               e2e_vae / "e2e-sdvae-400k-latents-stats.pt")  # fmt: skip
    assert load_autoencoder("e2e_vae").shift == [1.0] * 4


@pytest.fixture
def tiny_va_vae(monkeypatch):
    monkeypatch.setitem(SPECS, "va_vae", AutoencoderSpec("hustvl/vavae", 4, 2, "ldm", statistics=True))


def test_va_vae_prepares_decodes_and_is_checked_by_its_name(tiny_va_vae, weights, root, capsys):
    vavae(weights / "va_vae", ldm_state(), STATISTICS)
    assert main(["latents", str(root), "--autoencoder", "va_vae"]) == 0
    said = capsys.readouterr().out
    assert "autoencoder va_vae: images of 16 pixels to 4 x 8 x 8" in said
    assert "objective.shift=auto" in said
    data = Latents(str(root))
    assert data.autoencoder == "va_vae"
    assert main(["check", str(root), "--count", "3"]) == 0
    said = capsys.readouterr().out
    assert "3 images decoded from their stored latents: PSNR" in said
    assert "Fréchet distance" in said


def test_a_run_with_another_autoencoder_than_its_datas_is_refused(tiny_va_vae, weights, root):
    vavae(weights / "va_vae", ldm_state(), STATISTICS)
    prepare_latents(root, "va_vae")
    chosen = ["data=imagenet256", "autoencoder=sd_vae_mse", "data.image_size=16", f"data.source.root={root}"]
    with pytest.raises(DiffxError, match="latents of va_vae, and autoencoder=sd_vae_mse; type autoencoder=va_vae"):
        look(compose_config([*chosen, "trainer.accelerator=cpu", "backbone=tiny"]))


def test_statistics_that_are_missing_are_asked_for(tiny_va_vae, weights):
    vavae(weights / "va_vae", ldm_state(), None)
    with pytest.raises(DiffxError, match=r"needs the statistics of its latents.*latents_stats\.pt"):
        load_autoencoder("va_vae")


@pytest.mark.parametrize(
    ("found", "why"),
    [
        ([1.0], "holds a list, and tensors by name are wanted"),
        ({"mean": torch.zeros(4), "std": [1.0] * 4}, "holds no tensors of statistics"),
        ({"mean": torch.zeros(4), "std": torch.zeros(4)}, "has a std of 0.0, and those of latents are positive"),
    ],
)
def test_a_file_of_statistics_that_holds_something_else_is_refused_in_a_sentence(tmp_path, found, why):
    torch.save(found, tmp_path / "latents_stats.pt")
    with pytest.raises(DiffxError, match=why):
        read_statistics(tmp_path)


def test_of_several_files_of_statistics_none_is_taken_silently(tmp_path):
    for name in ("latents_stats.pt", "e2e-latents-stats.pt"):
        torch.save(STATISTICS, tmp_path / name)
    with pytest.raises(DiffxError, match=r"2 files of latent statistics \(e2e-latents-stats.pt, latents_stats.pt\)"):
        read_statistics(tmp_path)


def test_statistics_of_another_number_of_channels_are_refused(tiny_va_vae, weights):
    vavae(weights / "va_vae", ldm_state(), {name: s[:, :3] for name, s in STATISTICS.items()})
    with pytest.raises(DiffxError, match="has 4 channels, and its statistics are of 3"):
        load_autoencoder("va_vae")


def test_another_autoencoder_in_the_place_of_a_known_one_is_refused_with_both_sizes(weights):
    vavae(weights / "va_vae", ldm_state(), STATISTICS)
    with pytest.raises(DiffxError, match=r"makes 32 channels of 16 pixels each, and the network in .* makes 4 of 2"):
        load_autoencoder("va_vae")


def test_another_layout_in_the_place_of_a_known_one_is_refused(weights):
    tiny_autoencoder(weights / "va_vae")
    with pytest.raises(DiffxError, match=r"comes in the layout ldm, and .* holds the layout diffusers"):
        load_autoencoder("va_vae")


def test_an_absent_checkpoint_is_asked_for_with_its_place(weights):
    with pytest.raises(DiffxError, match=r"put the files of hustvl/vavae.* in .*weights/va_vae"):
        load_autoencoder("va_vae")


def test_a_checkpoint_of_something_else_is_one_sentence(tmp_path):
    torch.save({"state_dict": {"model.weight": torch.zeros(2)}}, tmp_path / "x.pt")
    with pytest.raises(DiffxError, match="no autoencoder of latent diffusion's layout"):
        load_autoencoder(str(tmp_path))


def test_latents_of_one_autoencoder_are_not_decoded_by_another(root, autoencoder, tmp_path):
    prepare_latents(root, str(autoencoder))
    other = tmp_path / "other"
    network = AutoencoderKL.from_pretrained(autoencoder)
    network.register_to_config(scaling_factor=0.3611, shift_factor=0.1159)
    network.save_pretrained(other)
    data = Latents(str(root), decoder=str(other))
    with pytest.raises(DiffxError, match="another latent space"):
        data.decode(torch.zeros(1, *data.shape))


def test_shift_and_scale_are_those_of_the_configuration(tmp_path, autoencoder):
    network = AutoencoderKL.from_pretrained(autoencoder)
    network.register_to_config(scaling_factor=0.3611, shift_factor=0.1159)
    network.save_pretrained(tmp_path / "flux")
    loaded = load_autoencoder(str(tmp_path / "flux"))
    assert (loaded.shift, loaded.scale) == ([0.1159], [0.3611])


def test_pixels_are_stored_as_levels_and_come_back_exactly(root):
    prepare_latents(root, "pixels")
    data = Latents(str(root))
    data.provide(["image"], side=4)
    batch = data.batch(torch.arange(11))
    torch.testing.assert_close(batch["x"], batch["image"] / 127.5 - 1, rtol=0, atol=1e-6)
    assert torch.equal(data.decode(batch["x"]), batch["image"])
    assert data._latents[0].shards.dtype == "uint8"


DECODER = {
    "decoder_hidden_size": 48,
    "decoder_num_hidden_layers": 2,
    "decoder_num_attention_heads": 2,
    "decoder_intermediate_size": 64,
    "patch_size": 4,
    "image_size": 16,
}


@pytest.fixture
def rae(tmp_path, weights, monkeypatch) -> Path:
    """A folder in RAE's layout, of an encoder that is a tiny DINOv2 with registers."""
    import timm

    small = (("embed_dim", 24), ("depth", 3), ("num_heads", 2))
    model = VisionModel("vit_small_patch14_reg4_dinov2.lvd142m", 14, arguments=small)
    monkeypatch.setitem(ENCODERS, "tiny", EncoderSpec(24, 4, model, "dinov2", "self-supervised"))
    torch.manual_seed(0)
    encoder = timm.create_model(model.name.partition(".")[0], num_classes=0, img_size=56, **dict(small))
    torch.save(encoder.state_dict(), weights / "tiny.pth")
    folder = tmp_path / "rae"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps({**DECODER, "encoder": "tiny"}))
    torch.save({f"decoder.{key}": value for key, value in official_decoder().items()}, folder / "model.pt")
    statistics = {"mean": torch.randn(24, 4, 4), "var": torch.rand(24, 4, 4) + 0.5}
    torch.save(statistics, folder / "stat.pt")
    return folder


def official_decoder() -> dict[str, Tensor]:
    """Random weights of RAE's decoder under the names of transformers' ViTMAE."""
    rng, width = torch.Generator().manual_seed(2), 48
    linear = lambda key, a, b: {f"{key}.weight": (b, a), f"{key}.bias": (b,)}  # noqa: E731
    shapes: dict[str, tuple[int, ...]] = {"trainable_cls_token": (1, 1, width)}
    shapes |= linear("decoder_embed", 24, width) | linear("decoder_pred", width, 4 * 4 * 3)
    shapes |= {f"decoder_norm.{kind}": (width,) for kind in ("weight", "bias")}
    for i in range(2):
        layer = f"decoder_layers.{i}"
        for part in ("query", "key", "value"):
            shapes |= linear(f"{layer}.attention.attention.{part}", width, width)
        shapes |= linear(f"{layer}.attention.output.dense", width, width)
        shapes |= linear(f"{layer}.intermediate.dense", width, 64) | linear(f"{layer}.output.dense", 64, width)
        for norm in ("layernorm_before", "layernorm_after"):
            shapes |= {f"{layer}.{norm}.{kind}": (width,) for kind in ("weight", "bias")}
    return {key: torch.randn(shape, generator=rng) * 0.2 for key, shape in shapes.items()}


@torch.no_grad()
def test_an_rae_normalises_the_encoders_tokens_place_by_place(rae):
    network, statistics = load_autoencoder(str(rae)), torch.load(rae / "stat.pt")
    encoder = network.network.encoder
    colours = [torch.tensor(c).view(1, 3, 1, 1) for c in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))]
    x = F.interpolate((IMAGES / 255 - colours[0]) / colours[1], size=(56, 56), mode="bicubic")
    encoder.norm = torch.nn.LayerNorm(24, eps=1e-6, elementwise_affine=False)
    tokens = encoder.forward_features(x)[:, 5:]
    expected = (tokens.mT.reshape(2, 24, 4, 4) - statistics["mean"]) / (statistics["var"] + 1e-5).sqrt()
    torch.testing.assert_close(network.encode(IMAGES), expected, rtol=1e-4, atol=1e-4)
    assert not network.posterior


@torch.no_grad()
def test_an_rae_decodes_as_diffusers_decoder_does(rae):
    made = pytest.importorskip("diffusers.models.autoencoders.autoencoder_rae").RAEDecoder
    at_256 = {**DECODER, "image_size": 64}  # a grid of 16; on another one diffusers stretches positions to 16
    there = made(hidden_size=24, num_patches=256, **at_256).decoder_pos_embed
    torch.testing.assert_close(autoencoder_rae.Decoder(24, at_256, 16, 4).position, there)
    theirs = made(hidden_size=24, num_patches=16, **DECODER)
    renamed = {}
    for key, value in official_decoder().items():
        for a, b in (("query", "to_q"), ("key", "to_k"), ("value", "to_v")):
            key = key.replace(f"attention.attention.{a}", f"attention.{b}")
        renamed[key.replace("attention.output.dense", "attention.to_out.0")] = value
    theirs.load_state_dict(renamed, strict=True)
    network, raw = load_autoencoder(str(rae)).network, torch.randn(2, 24, 4, 4)
    theirs.decoder_pos_embed.copy_(network.decoder.position)
    tokens = (raw * (network.var + 1e-5).sqrt() + network.mean).flatten(2).mT
    patches = theirs(tokens).logits.reshape(2, 4, 4, 4, 4, 3)  # rows, columns, rows within, columns within, colours
    image = patches.permute(0, 5, 1, 3, 2, 4).reshape(2, 3, 16, 16)
    colours = [torch.tensor(c).view(1, 3, 1, 1) for c in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))]
    torch.testing.assert_close(network.decode(raw), (image * colours[1] + colours[0]) * 2 - 1, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(("file", "what"), [("model.pt", "the decoder"), ("stat.pt", "mean and var of its latents")])
def test_an_rae_without_one_of_its_files_is_refused(rae, file, what):
    (rae / file).unlink()
    with pytest.raises(DiffxError, match=f"is an RAE without {what}; put the authors' {file} or"):
        load_autoencoder(str(rae))


def test_an_rae_whose_statistics_lack_one_of_both_is_refused(rae):
    torch.save({"mean": torch.zeros(24, 4, 4)}, rae / "stat.pt")
    with pytest.raises(DiffxError, match=r"stat\.pt holds no var of latents; put the authors' stat\.pt there"):
        load_autoencoder(str(rae))


def test_an_rae_whose_configuration_lacks_a_size_is_refused(rae):
    sizes = {key: value for key, value in DECODER.items() if key != "decoder_num_hidden_layers"}
    (rae / "config.json").write_text(json.dumps({**sizes, "encoder": "tiny"}))
    with pytest.raises(DiffxError, match=r"config\.json has no decoder_num_hidden_layers"):
        load_autoencoder(str(rae))


def test_an_rae_prepares_latents_and_decodes_them(rae, root):
    prepare_latents(root, str(rae))
    data = Latents(str(root))
    assert data.shape == (24, 4, 4)
    assert data.decode(data.batch(torch.arange(2))["x"]).shape == (2, 3, 16, 16)


def test_one_image_is_checked_and_has_no_distance(root):
    prepare_latents(root, "pixels")
    assert "1 images decoded" in check_reconstruction(root, count=1)
    assert "no Fréchet distance: it needs the spread of several images" in check_reconstruction(root, count=1)


def test_psnr_is_that_of_its_definition():
    a, b = torch.full((1, 3, 4, 4), 100, dtype=torch.uint8), torch.full((1, 3, 4, 4), 90, dtype=torch.uint8)
    assert psnr(a, b).item() == pytest.approx(20 * math.log10(255 / 10))


def test_the_operations_of_sd_vae_are_those_of_encoder_and_decoder_at_256_pixels():
    """445.87 G, as quoted, are multiply-adds of both; counted here are 136.4 + 311.1 = 447.5."""
    with torch.device("meta"):
        encoder, decoder = autoencoder_flops(KL.of(SPECS["sd_vae_mse"].architecture), 256)
    assert encoder / 2e9 == pytest.approx(136.4, abs=0.1)
    assert decoder / 2e9 == pytest.approx(311.1, abs=0.1)
    assert (encoder + decoder) / 2e9 == pytest.approx(445.87, rel=5e-3)


@pytest.mark.parametrize("name", [name for name in SPECS if name != "dc_ae"])
def test_what_is_known_of_an_autoencoder_is_what_its_architecture_makes(name):
    spec = SPECS[name]
    with torch.device("meta"):
        network = autoencoders.sketch(name)
    assert (network.channels, network.stride) == (spec.channels, spec.stride)


@pytest.mark.parametrize("name", SPECS)
def test_choosing_an_autoencoder_shapes_the_data(name):
    settings = compose_config(["data=imagenet256", f"autoencoder={name}"])
    assert (settings.data.channels, settings.data.size) == (SPECS[name].channels, 256 // SPECS[name].stride)


def test_the_shift_that_a_dimension_asks_for_may_be_typed_as_auto():
    settings = compose_config(["data=imagenet256", "autoencoder=rae_dinov2_b", "objective.shift=auto"])
    assert settings.objective.shift == pytest.approx(math.sqrt(768 * 256 / 4096))
    assert compose_config(["objective.shift=auto"]).objective.shift == 1


def test_data_of_another_shape_than_the_autoencoders_is_refused():
    with pytest.raises(DiffxError, match="autoencoder=va_vae makes 32 channels of 16x16"):
        compose_config(["data=imagenet256", "autoencoder=va_vae", "data.channels=4"])


def test_the_plan_prints_what_an_autoencoder_costs_beside_the_backbone():
    said = describe_autoencoder("sd_vae_mse", 256)
    assert "0.27 TFLOP an image to encode and 0.62 TFLOP to decode, where a forward of DiT-XL/2 takes 0.24" in said


def test_every_known_autoencoder_is_a_choice_of_a_run():
    files = {file.stem for file in (config_dir() / "autoencoder").glob("*.yaml")}
    assert files == {*SPECS, "none"}
