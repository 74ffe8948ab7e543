"""CLIP score and CMMD by their formulas, on a tiny CLIP with random weights."""

from pathlib import Path

import pytest
import torch

from diffx.data import LatentSpace, Shapes
from diffx.data.prompts import Prompt
from diffx.errors import DiffxError
from diffx.features.clip import CLIP
from diffx.metrics import CLIPMetrics
from diffx.metrics.text.clip import CLIPScore, cmmd
from tests.text import made_encoders as made

PROMPTS = ["ab", "b c", "abc"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return made.whole_clip(tmp_path_factory.mktemp("clip"))


def images(count: int) -> torch.Tensor:
    return torch.randint(256, (count, 3, 20, 20), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)


def test_embeddings_are_those_of_transformers_behind_its_own_preprocessing(folder: Path) -> None:
    from transformers import CLIPModel

    clip, network = CLIP(str(folder)), CLIPModel.from_pretrained(folder)
    x = images(2)[:, :, :16, :16].contiguous()  # of the model's own size, so that nothing is resized
    mean, std = (
        torch.tensor(c).view(1, 3, 1, 1)
        for c in ((0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711))
    )
    with torch.no_grad():
        out = network(
            input_ids=torch.tensor([[52, 0, 27, 53], [52, 2, 27, 53]])[:1].repeat(2, 1),
            pixel_values=(x / 255 - mean) / std,
        )
    torch.testing.assert_close(clip(x), out.image_embeds, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(clip.text(["ab"]), out.text_embeds[:1], rtol=1e-4, atol=1e-5)


def test_clip_score_is_a_hundred_times_the_cosine_with_the_images_own_prompt(folder: Path) -> None:
    clip = CLIP(str(folder))
    seen, prompts = clip(images(5)), clip.text(PROMPTS)
    score = CLIPScore(clip, prompts)
    for part in images(5).split(2):
        score.update(part)
    cosines = [float(seen[i] @ prompts[i % 3]) for i in range(5)]
    assert float(score.compute()) == pytest.approx(100 * sum(max(c, 0) for c in cosines) / 5, rel=1e-5)
    half = CLIPScore(clip, prompts, places=(1, 2))
    half.update(images(5)[1::2])
    assert float(half.compute()) == pytest.approx(100 * sum(max(cosines[i], 0) for i in (1, 3)) / 2, rel=1e-5)


def test_cmmd_is_a_thousand_times_the_biased_mmd_under_a_gaussian_of_width_ten() -> None:
    x, y = torch.nn.functional.normalize(torch.randn(2, 7, 4, generator=torch.Generator().manual_seed(1)), dim=2)
    x = x[:5]

    def kernel(a: torch.Tensor, b: torch.Tensor) -> float:
        pairs = [torch.exp(-(p - q).double().square().sum() / 200) for p in a for q in b]
        return float(torch.stack(pairs).mean())

    assert cmmd(x, y) == pytest.approx(1000 * (kernel(x, x) + kernel(y, y) - 2 * kernel(x, y)), rel=1e-6)
    assert cmmd(x, x) == pytest.approx(0, abs=1e-9)


def test_data_without_prompts_has_a_distance_and_no_score(folder: Path) -> None:
    data = Shapes(count=40)
    metrics = CLIPMetrics(data, clip=str(folder))
    values = metrics(data.batch(torch.arange(10))["image"].split(4))
    assert values.keys() == {"cmmd_10"}
    assert values["cmmd_10"] > 0
    data.prompts = [Prompt(words) for words in PROMPTS]
    scored = CLIPMetrics(data, clip=str(folder))
    assert scored(data.batch(torch.arange(10))["image"].split(4)).keys() == {"clip_score", "cmmd_10"}
    assert scored.identity != metrics.identity


def test_a_text_tower_alone_is_no_clip(tmp_path: Path) -> None:
    with pytest.raises(DiffxError, match="no whole CLIP"):
        CLIP(str(made.clip(tmp_path / "clip")))


def test_a_latent_space_without_prompts_is_refused_before_a_clip_is_read() -> None:
    with pytest.raises(DiffxError, match=r"has neither prompts nor images.*type eval.prompts="):
        CLIPMetrics(LatentSpace("vae", (4, 8, 8), 10), clip="nowhere")
