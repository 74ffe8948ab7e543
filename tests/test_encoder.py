"""Frozen encoders: where their weights come from, how images reach them, and what comes out."""

from functools import partial
from pathlib import Path

import pytest
import timm
import torch
import torch.nn.functional as F
from safetensors.torch import save_file

from diffx.assemble.services import ClassToken, Features, Surroundings, make_encoder
from diffx.errors import DiffxError
from diffx.frozen.encoder import SPECS, EncoderSpec, check_grid, encoder_spec
from diffx.frozen.vision import CLIP, IMAGENET, VisionModel
from diffx.testing import tiny_backbone

DINO_LIKE = {"img_size": 56, "patch_size": 14, "embed_dim": 32, "depth": 2, "num_heads": 2, "init_values": 1e-1}


@pytest.fixture
def weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty weights folder, and a Hugging Face cache that is empty and may not be filled."""
    monkeypatch.setenv("DIFFX_WEIGHTS", str(tmp_path / "weights"))
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    (tmp_path / "weights").mkdir()
    return tmp_path / "weights"


def tiny(monkeypatch: pytest.MonkeyPatch, **settings: object) -> None:
    """A two-block DINOv2-shaped network under the name "tiny"."""
    arguments = tuple((k, v) for k, v in DINO_LIKE.items() if k != "img_size")
    model = VisionModel("vit_small_patch14_dinov2.lvd142m", 14, arguments=arguments, **settings)  # type: ignore[arg-type]
    monkeypatch.setitem(SPECS, "tiny", EncoderSpec(32, 16, model, "dinov2", "self-supervised"))


def random_network() -> torch.nn.Module:
    torch.manual_seed(0)
    return timm.create_model("vit_small_patch14_dinov2", pretrained=False, num_classes=0, **DINO_LIKE).eval()


@pytest.fixture
def images() -> torch.Tensor:
    return torch.randint(256, (2, 3, 64, 64), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


def test_a_local_file_gives_the_tokens_that_timm_computes_on_rightly_prepared_images(weights, monkeypatch, images):
    tiny(monkeypatch)
    network = random_network()
    save_file(network.state_dict(), weights / "tiny.safetensors")
    mean, std = (torch.tensor(c).view(3, 1, 1) for c in IMAGENET)
    prepared = F.interpolate((images / 255 - mean) / std, size=(56, 56), mode="bicubic")
    expected = network.forward_features(prepared)[:, 1:]
    tokens = make_encoder("tiny", None, 4, "cpu")(images)
    assert tokens.shape == (2, 16, 32)
    assert not tokens.requires_grad
    torch.testing.assert_close(tokens, expected.detach())


def test_clip_is_resized_before_and_dinov2_after_normalising(weights, monkeypatch, images):
    save_file(random_network().state_dict(), weights / "tiny.safetensors")
    mean, std = (torch.tensor(c).view(3, 1, 1) for c in CLIP)
    tiny(monkeypatch, colours=CLIP, resize_first=True)
    first = make_encoder("tiny", None, 4, "cpu").preprocess(images)
    expected = (F.interpolate(images / 255, size=(56, 56), mode="bicubic") - mean) / std
    torch.testing.assert_close(first, expected, rtol=0, atol=0)


def test_a_position_table_of_another_resolution_is_resampled_to_the_grid(weights, monkeypatch, images):
    tiny(monkeypatch)
    save_file(random_network().state_dict(), weights / "tiny.safetensors")
    assert make_encoder("tiny", None, 8, "cpu")(images).shape == (2, 64, 32)


def test_grey_images_are_seen_as_colour(weights, monkeypatch, images):
    tiny(monkeypatch)
    save_file(random_network().state_dict(), weights / "tiny.safetensors")
    encoder = make_encoder("tiny", None, 4, "cpu")
    grey = images[:, :1]
    torch.testing.assert_close(encoder(grey), encoder(grey.expand(-1, 3, -1, -1)))


def test_tokens_before_the_last_norm_are_those_of_the_last_block(weights, monkeypatch, images):
    save_file(random_network().state_dict(), weights / "tiny.safetensors")
    tiny(monkeypatch, final_norm=False)
    raw = make_encoder("tiny", None, 4, "cpu")(images)
    tiny(monkeypatch)
    normed = make_encoder("tiny", None, 4, "cpu")(images)
    torch.testing.assert_close(F.layer_norm(raw, (32,), eps=1e-6), normed)


def test_weights_inside_a_training_checkpoint_are_found_by_prefix(weights, monkeypatch, images):
    network = random_network()
    outer = {f"module.base_encoder.{name}": value for name, value in network.state_dict().items()}
    outer["module.predictor.weight"] = torch.zeros(1)
    torch.save({"epoch": 3, "state_dict": outer}, weights / "tiny.pth")
    tiny(monkeypatch, keys="module.base_encoder.")
    tokens = make_encoder("tiny", None, 4, "cpu")(images)
    assert tokens.shape == (2, 16, 32)


def test_missing_weights_are_one_sentence_with_the_three_ways_to_provide_them(weights):
    with pytest.raises(DiffxError) as caught:
        make_encoder("dinov2_vits14", None, 16, "cpu")
    message = str(caught.value)
    assert str(weights / "dinov2_vits14.safetensors") in message
    assert "HF_HOME" in message
    assert "hf download timm/vit_small_patch14_dinov2.lvd142m" in message


def test_an_encoder_without_published_timm_weights_asks_for_a_local_file(weights):
    with pytest.raises(DiffxError, match=r"mocov3_vitb16.*timm publishes none.*mocov3_vitb16\.pth"):
        make_encoder("mocov3_vitb16", None, 16, "cpu")


def test_a_file_of_another_network_is_refused_by_name(weights, monkeypatch):
    tiny(monkeypatch)
    save_file({"nothing": torch.zeros(1)}, weights / "tiny.safetensors")
    with pytest.raises(DiffxError, match=r"tiny\.safetensors does not hold the weights"):
        make_encoder("tiny", None, 4, "cpu")


def test_a_pickle_that_could_execute_is_not_loaded(weights, monkeypatch):
    tiny(monkeypatch)
    torch.save({"model": Path}, weights / "tiny.pth")
    with pytest.raises(DiffxError, match="nothing that can execute"):
        make_encoder("tiny", None, 4, "cpu")


def test_the_grids_of_encoder_and_backbone_have_to_match():
    check_grid(encoder_spec("dinov2_vitb14"), "dinov2_vitb14", 256, 16)
    with pytest.raises(DiffxError, match="16x16 tokens"):
        check_grid(encoder_spec("dinov2_vitb14"), "dinov2_vitb14", 256, 8)


@pytest.mark.parametrize("name", [name for name, spec in SPECS.items() if spec.model])
def test_every_listed_encoder_is_a_timm_model_of_the_stated_width_and_patch(name):
    spec = SPECS[name]
    size = {} if "dinov3" in name else {"img_size": spec.model.patch * 4}
    with torch.device("meta"):
        network = timm.create_model(
            spec.model.name, pretrained=False, num_classes=0, **size, **dict(spec.model.arguments)
        )
    assert network.embed_dim == spec.dim
    assert (network.cls_token is not None) == spec.class_token
    assert tuple(network.patch_embed.patch_size) == (spec.model.patch,) * 2
    if "." in spec.model.name:
        assert network.pretrained_cfg["mean"] == spec.model.colours[0]
        assert network.pretrained_cfg["std"] == spec.model.colours[1]


def test_weights_in_the_hugging_face_cache_are_used_offline(weights, monkeypatch, images):
    """The cache's layout is refs/main naming a snapshot folder."""
    repository = weights.parent / "hub" / "models--timm--vit_small_patch14_dinov2.lvd142m"
    (repository / "refs").mkdir(parents=True)
    (repository / "refs" / "main").write_text("abc")
    (repository / "snapshots" / "abc").mkdir(parents=True)
    save_file(random_network().state_dict(), repository / "snapshots" / "abc" / "model.safetensors")
    tiny(monkeypatch)
    assert make_encoder("tiny", None, 4, "cpu")(images).shape == (2, 16, 32)


def test_a_compiled_encoder_is_one_graph_from_bytes_to_tokens(weights, monkeypatch, images):
    tiny(monkeypatch)
    save_file(random_network().state_dict(), weights / "tiny.safetensors")
    encoder, graphs = make_encoder("tiny", None, 4, "cpu"), []

    def keep_graph(graph, example_inputs):
        graphs.append({node.target for node in graph.graph.nodes})
        return graph

    eager = encoder(images)
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend=keep_graph, fullgraph=True))
    encoder.compile()
    assert torch.equal(encoder(images.clone()), eager)
    assert len(graphs) == 1
    assert torch.nn.functional.interpolate in graphs[0]


def test_the_class_token_is_timms_and_comes_from_the_run_that_gives_the_patches(weights, monkeypatch, images):
    tiny(monkeypatch)
    network = random_network()
    save_file(network.state_dict(), weights / "tiny.safetensors")
    around = Surroundings(tiny_backbone(), 64)
    patches, class_token = (make("tiny", around) for make in (Features().make, ClassToken().make))
    encoder, runs = around.encoder("tiny"), []
    monkeypatch.setattr(encoder, "_run", lambda image, run=encoder._run: runs.append(image) or run(image))
    expected = network.forward_features(encoder.preprocess(images)).detach()
    for _ in range(2):
        batch = images.clone()
        torch.testing.assert_close(class_token(batch), expected[:, 0])
        torch.testing.assert_close(patches(batch), expected[:, 1:])
    assert len(runs) == 2
    assert torch.equal(patches(images), patches(images))


def test_an_encoder_without_a_class_token_is_refused_where_one_is_needed():
    with pytest.raises(DiffxError, match=r"encoder siglip_vitb16 has no class token; type one of .*dinov2_vitb14"):
        ClassToken().check("siglip_vitb16", Surroundings(tiny_backbone(), 64))
    ClassToken().check("dinov2_vitb14", Surroundings(tiny_backbone(), 64))
