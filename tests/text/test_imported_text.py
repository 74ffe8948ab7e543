"""Text-to-image files in diffusers' layout are sampled for words from the command line."""

import json
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import PixArtTransformer2DModel, SD3Transformer2DModel
from safetensors.torch import save_file

from diffx.checkpoint import open_backbone
from diffx.commands.evaluate import main as evaluate
from diffx.commands.sample import main as sample
from diffx.config.compose import compose_config
from diffx.config.protocol import with_protocol
from diffx.frozen.autoencoder import load_autoencoder
from diffx.frozen.text import load_text_encoders
from diffx.objective import DDPM
from diffx.pixels.values import to_uint8
from diffx.sampler import Ancestral, Field, Guidance, SampleNoise
from tests.checkpoint.official_files import official
from tests.evaluate.conftest import Refusal, refusal  # noqa: F401
from tests.prepare.made_sources import tiny_autoencoder
from tests.text.made_encoders import clip, t5, whole_clip

SIZES = {"input_size": 8, "in_channels": 4, "hidden_size": 32, "depth": 2, "num_heads": 2}
SD3 = {
    "sample_size": 8, "patch_size": 2, "in_channels": 4, "num_layers": 2, "attention_head_dim": 16,
    "num_attention_heads": 2, "joint_attention_dim": 32, "caption_projection_dim": 32, "pooled_projection_dim": 24,
    "out_channels": 4, "pos_embed_max_size": 6,
}  # fmt: skip
PIXART = {
    "sample_size": 8, "patch_size": 2, "in_channels": 4, "out_channels": 8, "num_layers": 2, "attention_head_dim": 16,
    "num_attention_heads": 2, "cross_attention_dim": 32, "caption_channels": 24,
}  # fmt: skip
WORDS = ["circle", "a blue"]  # CLIP here has a token for each letter, and takes six
TWO = ["--prompt", WORDS[0], "--prompt", WORDS[1], "--seed", "3", "--guidance", "2"]
JOINED = ["--encoder", "text_encoder", "--encoder", "text_encoder_2", "--encoder", "text_encoder_3", "--length", "7"]


@pytest.fixture
def there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory with the encoders of a pipeline and an autoencoder."""
    monkeypatch.chdir(tmp_path)
    tiny_autoencoder(Path("vae"))
    clip(Path("text_encoder"))
    clip(Path("text_encoder_2"), seed=5)
    t5(Path("text_encoder_3"))
    return tmp_path


def stirred(network: torch.nn.Module) -> torch.nn.Module:
    torch.manual_seed(0)
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    return network.eval()


def sd3(name: str = "sd3.safetensors") -> tuple[torch.nn.Module, list[str]]:
    """diffusers' network with random weights, whose file is on disk, and what a user types of it."""
    network = stirred(SD3Transformer2DModel(**SD3))
    save_file({key: weight.contiguous() for key, weight in network.state_dict().items()}, name)
    sizes = SIZES | {"text_length": 15, "text_channels": 32, "pooled_channels": 24, "position_size": 6}
    typed = [f"backbone.{key}={value}" for key, value in sizes.items()]
    return network, [name, "--as", "sd3-medium-2", *typed, "--decoder", "vae"]


def pixart() -> list[str]:
    network = stirred(PixArtTransformer2DModel(**PIXART))
    save_file({key: weight.contiguous() for key, weight in network.state_dict().items()}, "pixart.safetensors")
    sizes = [f"backbone.{key}={value}" for key, value in (SIZES | {"text_length": 9, "text_channels": 24}).items()]
    return ["pixart.safetensors", "--as", "pixart-xl-2", *sizes, "--decoder", "vae"]


def images_of(x: torch.Tensor) -> np.ndarray:
    images = to_uint8(load_autoencoder("vae").decode(x.float() / 0.18215), "nearest")
    shown: np.ndarray = images.permute(0, 2, 3, 1).numpy()
    return shown


@torch.no_grad()
def test_stable_diffusion_3_draws_for_words_what_diffusers_own_network_draws(there: Path) -> None:
    network, typed = sd3()
    sample([*typed, *JOINED, *TWO, "--nfe", "3"])
    encoder = load_text_encoders(JOINED[1:6:2], 7)
    text, none = encoder(WORDS), encoder(["", ""])
    x = SampleNoise(3, range(2)).draw((4, 8, 8)).float()
    even = torch.linspace(1, 0, 4, dtype=torch.float64)
    sigmas = 3 * even / (1 + 2 * even)
    for sigma, following in pairwise(sigmas):
        t = torch.full((2,), 1000 * float(sigma))
        asked, plain = (
            network(x, encoder_hidden_states=y.tokens, pooled_projections=y.pooled, timestep=t).sample
            for y in (text, none)
        )
        x = x + float(following - sigma) * (plain + 2 * (asked - plain))
    drawn = np.load("sd3/samples/samples.npz")["arr_0"].astype(int)
    assert np.abs(drawn - images_of(x)).max() <= 1
    assert (drawn[0] != drawn[1]).any()
    facts = json.loads(Path("sd3/samples/samples.json").read_text())
    assert (facts["prompts"], facts["protocol"]["negative"]) == (WORDS, "")
    assert facts["protocol"]["sampler"]["shift"] == 3


@torch.no_grad()
def test_pixart_draws_for_words_by_ddpm_away_from_the_empty_prompt(there: Path) -> None:
    sample([*pixart(), "--encoder", "text_encoder_3", *TWO, "--nfe", "3"])
    encoder = load_text_encoders(["text_encoder_3"], 9)
    noise = SampleNoise(3, range(2))
    field = Field(open_backbone(Path("pixart")), DDPM(), encoder(WORDS), encoder(["", ""]), Guidance(2.0))
    x = Ancestral(3)(field, noise.draw((4, 8, 8)), noise).float()
    assert np.array_equal(np.load("pixart/samples/samples.npz")["arr_0"], images_of(x))
    assert json.loads(Path("pixart/samples/samples.json").read_text())["length"] == 9  # as it was trained with


def test_other_encoders_and_other_words_make_another_set(there: Path) -> None:
    _, typed = sd3()

    def draw(*asked: str) -> np.ndarray:
        sample([*typed, *JOINED, *asked, "--nfe", "1", "-o", "set"])
        drawn: np.ndarray = np.load("set.npz")["arr_0"]
        return drawn

    Path("prompts.txt").write_text(WORDS[0] + "\n")
    first, same = draw("--prompt", WORDS[0]), draw("--prompts", "prompts.txt")
    assert np.array_equal(first, same)
    away = draw("--prompt", WORDS[0], "--guidance", "2", "--negative", "square")
    assert (away != draw("--prompt", WORDS[0], "--guidance", "2")).any()
    clip(Path("text_encoder"), seed=9)
    assert (draw("--prompt", WORDS[0]) != first).any()


def test_what_does_not_go_with_a_network_of_text_is_refused_in_a_sentence(there: Path, refusal: Refusal) -> None:  # noqa: F811
    _, typed = sd3()
    asked = ["--prompt", "circle", "--nfe", "1"]
    said: list[tuple[list[str], str]] = [
        (asked, "type --encoder and the local folder of CLIP-L, CLIP-G and T5-XXL, which sd3 was trained with"),
        ([*asked, *JOINED[:2]], "tokens of 32 channels and a pooled vector of 24, and text_encoder make 16 and 12"),
        ([*asked, *JOINED, "--length", "0"], "--length 0: type a number of at least 1"),
        ([*asked, *JOINED, "--data", "imagenet512"], "has latents of"),
        (JOINED, "type eval.prompts= and a file of prompts, one a line, or to diffx.sample --prompt"),
        ([*JOINED, "--label", "1"], "has captions and no classes; type --prompt"),
    ]
    for words, sentence in said:
        assert sentence in refusal(sample, [*typed, *words])
    assert not Path("sd3/samples/samples.npz").exists()


def test_a_network_of_classes_takes_neither_words_nor_encoders(
    there: Path,
    refusal: Refusal,  # noqa: F811
    capsys: pytest.CaptureFixture[str],
) -> None:
    dit = official("dit")
    torch.save(dit.weights, "dit.pt")
    typed = ["dit.pt", "--as", dit.name, *(f"backbone.{setting}" for setting in dit.settings), "--decoder", "vae"]
    sample([*typed, "--nfe", "2", "-n", "2"])
    capsys.readouterr()
    refused: Callable[..., str] = lambda *words: refusal(sample, [*typed, "--nfe", "2", "-n", "2", *words])  # noqa: E731
    assert "has classes and takes no prompt" in refused("--prompt", "a circle")
    assert "dit is conditioned by classes, and --encoder and --length are for text" in refused(*JOINED)


@pytest.mark.parametrize(
    ("protocol", "words"),
    [("sd3_clip", {"nfe": 28, "shift": 3.0, "scale": 7.0}), ("pixart_clip", {"nfe": 250, "scale": 4.5})],
)
def test_a_network_of_text_is_measured_by_clip_under_a_protocol_of_its_own(protocol: str, words, there: Path) -> None:
    named = with_protocol(compose_config([]), protocol)
    assert {**named.sampler.arguments, "scale": named.guidance.arguments["scale"]} == words
    typed, encoders = (sd3()[1], JOINED) if protocol == "sd3_clip" else (pixart(), ["--encoder", "text_encoder_3"])
    Path("prompts.txt").write_text("\n".join(WORDS))
    asked = ["eval.prompts=prompts.txt", f"eval.metrics.clip={whole_clip(Path('whole'))}", "eval.samples=3"]
    evaluate([*typed, *encoders, "--protocol", protocol, *asked, "sampler.nfe=2"])
    (written,) = Path(typed[0]).with_suffix("").glob("values_*.json")
    found = json.loads(written.read_text())
    assert found["values"].keys() == {"clip_score"}
    assert found["protocol_facts"]["negative"] == ""
    assert found["protocol_facts"]["sampler"].get("shift") == words.get("shift")
