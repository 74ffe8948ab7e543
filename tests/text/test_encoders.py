"""Frozen text encoders, against transformers' own models and Stable Diffusion 3's way of joining them."""

from pathlib import Path

import pytest
import torch

from diffx.backbone import TextShape
from diffx.errors import DiffxError
from diffx.frozen.text import load_text_encoders
from tests.text import made_encoders as made

transformers = pytest.importorskip("transformers")
PROMPTS = ["ab c", "a"]


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    home = tmp_path_factory.mktemp("encoders")
    made.clip(home / "clip_l")
    made.clip(home / "clip_g", width=20, projection=6, seed=3)
    made.t5(home / "t5")
    made.llama(home / "llama")
    return home


def test_clip_gives_its_last_hidden_states_and_its_projected_pooled_vector(home: Path) -> None:
    encoder = load_text_encoders([str(home / "clip_l")])
    text = encoder(PROMPTS)
    assert encoder.shape == TextShape(8, 16, 12)
    network = transformers.CLIPTextModelWithProjection.from_pretrained(home / "clip_l")
    ids = torch.tensor([[52, 0, 27, 28, 53, 53, 53, 53], [52, 26, 53, 53, 53, 53, 53, 53]])
    with torch.no_grad():
        expected = network(input_ids=ids)
    torch.testing.assert_close(text.tokens, expected.last_hidden_state)
    torch.testing.assert_close(text.pooled, expected.text_embeds)
    assert text.mask.sum(1).tolist() == [5, 3]


def test_t5_sees_no_padding_and_has_no_pooled_vector(home: Path) -> None:
    short, long = (load_text_encoders([str(home / "t5")], length)(["a red circle"]) for length in (5, 9))
    assert short.pooled.shape == (1, 0)
    assert short.mask.sum() == long.mask.sum() == 4
    torch.testing.assert_close(short.tokens[:, :4], long.tokens[:, :4])


def test_a_decoder_language_models_states_are_tokens(home: Path) -> None:
    text = load_text_encoders([str(home / "llama")], 6)(["a red circle", "small"])
    network = transformers.LlamaModel.from_pretrained(home / "llama")
    with torch.no_grad():
        expected = network(input_ids=torch.tensor([[3, 4, 6, 1]])).last_hidden_state
    torch.testing.assert_close(text.tokens[:1, :4], expected, rtol=1e-4, atol=1e-5)
    assert text.mask.tolist() == [[True] * 4 + [False] * 2, [True] * 2 + [False] * 4]


def test_clips_stand_side_by_side_and_t5_behind_them_as_in_stable_diffusion_3(home: Path) -> None:
    """Against the steps of diffusers' StableDiffusion3Pipeline.encode_prompt, taken with transformers' models alone."""
    folders = [str(home / name) for name in ("clip_l", "clip_g", "t5")]
    encoder = load_text_encoders(folders, 7)
    text = encoder(["a"])
    ids = torch.tensor([[52, 26, 53, 53, 53, 53, 53, 53]])
    states, vectors = [], []
    with torch.no_grad():
        for name in ("clip_l", "clip_g"):
            out = transformers.CLIPTextModelWithProjection.from_pretrained(home / name)(
                input_ids=ids, output_hidden_states=True
            )
            states.append(out.hidden_states[-2])
            vectors.append(out.text_embeds)
        t5 = transformers.T5EncoderModel.from_pretrained(home / "t5")(torch.tensor([[3, 1, 0, 0, 0, 0, 0]]))[0]
    beside = torch.cat(states, dim=-1)
    expected = torch.cat([beside, torch.nn.functional.pad(t5, (0, beside.shape[-1] - t5.shape[-1]))], dim=-2)
    assert encoder.shape == TextShape(15, 36, 18)
    torch.testing.assert_close(text.tokens, expected)
    torch.testing.assert_close(text.pooled, torch.cat(vectors, dim=-1))
    assert text.mask.all()


def test_a_prompt_that_is_too_long_is_refused_and_not_cut(home: Path) -> None:
    with pytest.raises(DiffxError, match=r"has 9 tokens, and .*clip_l takes 8"):
        load_text_encoders([str(home / "clip_l")])(["abcdefg"])


def test_the_tokenizer_of_a_pipeline_stands_beside_its_encoder(home: Path, tmp_path: Path) -> None:
    made.clip(tmp_path / "text_encoder_2")
    (tmp_path / "tokenizer_2").mkdir()
    for name in ("vocab.json", "merges.txt", "tokenizer_config.json"):
        (tmp_path / "text_encoder_2" / name).rename(tmp_path / "tokenizer_2" / name)
    apart, whole = (load_text_encoders([str(folder)]) for folder in (tmp_path / "text_encoder_2", home / "clip_l"))
    assert torch.equal(apart(["ab"]).tokens, whole(["ab"]).tokens)
    assert apart.facts == whole.facts


@pytest.mark.parametrize(
    ("file", "said"),
    [
        ("config.json", "holds no text encoder"),
        ("model.safetensors", "no \\*.safetensors; other files of weights can run code"),
        ("tokenizer.json", "has no tokenizer"),
    ],
)
def test_a_folder_that_lacks_a_file_is_refused_in_a_sentence(file: str, said: str, tmp_path: Path) -> None:
    folder = made.t5(tmp_path / "t5")
    for found in folder.glob("tokenizer*" if file.startswith("tokenizer") else file):
        found.unlink()
    with pytest.raises(DiffxError, match=said):
        load_text_encoders([str(folder)])
