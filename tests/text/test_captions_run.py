"""A run on the embedded captions from its first step to samples of words, on a tiny network."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from diffx.commands.evaluate import main as evaluate
from diffx.commands.sample import main as sample
from diffx.config.compose import compose_config
from diffx.config.protocol import protocol
from diffx.data.captions import Pictures
from diffx.data.prompts import prompts_digest
from diffx.embedded import shipped
from diffx.embedded.captions import Captions, attributes, text_encoder
from diffx.errors import DiffxError
from diffx.evaluation.conditions import make_conditions
from diffx.metrics import CaptionMetrics
from diffx.run.folder import RunDir
from diffx.train.loop import train
from tests.evaluate.conftest import Refusal, refusal  # noqa: F401
from tests.run.conftest import SMALL

TINY = [
    "data=captions", "data.source.count=64", *SMALL, "eval.samples=12", "eval.batch_size=8",
    "guidance.scale=2", "max_steps=2", "log_every=1",
]  # fmt: skip


@pytest.fixture(scope="module")
def data() -> Captions:
    return Captions(count=64)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> RunDir:
    return train(compose_config([*TINY, f"runs_dir={tmp_path_factory.mktemp('runs')}"]))


def test_the_networks_of_the_captions_come_with_diffx_and_are_as_good_as_their_record_says(data: Captions) -> None:
    pictures, said = Pictures(), shipped.records()
    for role, made in (("text", text_encoder), ("attributes", attributes)):
        assert shipped.find(f"captions-{role}", made.facts(pictures)) is not None
    understood = text_encoder.understood(text_encoder.TextEncoder(pictures).network, pictures.prompts())
    assert understood == pytest.approx(said["captions-text"]["captions_understood"], abs=0.005)
    assert understood > 0.9
    assert said["captions-attributes"]["scenes_read"] > 0.9


def test_a_batch_holds_the_encoded_captions_of_its_pictures(data: Captions) -> None:
    y = data.batch(torch.tensor([5, 60]))["y"]
    words = data.images.captions(61)
    for part, wanted in zip(y, data.encode([words[5], words[60]]), strict=True):
        torch.testing.assert_close(part, wanted, rtol=2e-3, atol=2e-3)


def test_real_pictures_agree_with_their_captions_and_those_of_other_captions_do_not(data: Captions) -> None:
    metrics = CaptionMetrics(data)
    floor = metrics.floor(100)
    assert floor["align_all"] > 0.9
    assert floor["align_all_unseen"] > 0.9
    swapped = metrics([data.reference()[1:101]])
    assert swapped["align_all"] < 0.1
    assert swapped["align_colour"] < floor["align_colour"] - 0.3


def test_a_run_is_measured_by_prompts_whose_digest_is_in_its_protocol(run: RunDir, data: Captions) -> None:
    record = run.read_record()
    prompts = [prompt.words for prompt in data.prompts]
    assert record["protocol"]["prompts"] == prompts_digest(prompts)
    assert {"align_shape", "align_all"} <= set(record["higher_is_better"])
    assert record["prompts"][:3] == prompts[:3]
    (point,) = run.points()
    assert 0 <= point["values"]["align_shape"] <= 1
    with Image.open(run.path / "samples" / "prompts_00000002.png") as picture:
        assert picture.width > 5 * 128


def test_samples_are_drawn_for_words_and_depend_on_them(run: RunDir, tmp_path: Path) -> None:
    stirred = RunDir(Path(shutil.copytree(run.path, tmp_path / "run")))
    rng = torch.Generator().manual_seed(0)
    weights = load_file(stirred.ema_weights)  # after two steps nothing depends on the text yet
    save_file({k: w + 0.1 * torch.randn(w.shape, generator=rng) for k, w in weights.items()}, stirred.ema_weights)

    def draw(name: str, *asked: str) -> tuple[np.ndarray, dict]:
        sample([str(stirred.path), *asked, "-o", str(tmp_path / f"{name}.npz"), "--devices", "1"])
        with np.load(tmp_path / f"{name}.npz") as arrays:
            return arrays["arr_0"], json.loads((tmp_path / f"{name}.json").read_text())

    words = ["a large red circle", "a small blue star above a ring"]
    plain, facts = draw("plain", "--prompt", words[0], "--prompt", words[1], "-n", "4")
    away, said = draw("away", "--prompt", words[0], "--prompt", words[1], "--negative", "")
    (tmp_path / "prompts.txt").write_text("\n".join(words[::-1]))
    turned, _ = draw("turned", "--prompts", str(tmp_path / "prompts.txt"))
    assert (facts["prompts"], said["protocol"]["negative"]) == (words, "")
    assert [len(images) for images in (plain, away, turned)] == [4, 2, 2]
    assert (plain[:2] != away).any()
    assert (plain[0] != turned[0]).any()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--prompt", "a red elephant"], "'elephant'"),
        (["--prompt", ""], "Prompt 1 is empty"),
        (["--prompt", "a star " * 15], "30 words"),
        (["--label", "3"], "type --prompt and some words"),
        (["--prompt", "a star", "--prompts", "f.txt"], "two ways to say the same"),
        (["--prompts", "nowhere.txt"], "cannot be read"),
    ],
)
def test_words_that_cannot_be_drawn_for_are_refused_in_a_sentence(words, said, run, tmp_path, refusal) -> None:  # noqa: F811
    message = refusal(sample, [str(run.path), *words, "-o", str(tmp_path / "s.npz"), "--devices", "1"])
    assert said in message


def test_an_evaluation_by_a_file_of_prompts_is_another_protocol(run: RunDir, tmp_path: Path, capsys) -> None:
    file = tmp_path / "prompts.jsonl"
    file.write_text('{"prompt": "a red circle", "include": [{"class": "circle", "count": 1, "color": "red"}]}\n')
    evaluate([str(run.path), f"eval.prompts={file}", "eval.samples=4", "--devices", "1"])
    assert "align_colour" in capsys.readouterr().out
    (other,) = run.path.glob("curve_*.jsonl")
    line = json.loads(other.read_text())
    assert line["protocol_facts"]["prompts"] == prompts_digest(["a red circle"])
    assert "align_relation" not in line["values"]


def test_classes_and_captions_do_not_mix() -> None:
    with pytest.raises(DiffxError, match=r"data=captions has captions, and .*DiT is conditioned by classes"):
        compose_config(["data=captions", "backbone=tiny"])
    with pytest.raises(DiffxError, match="conditioned by text, and data=shapes has classes"):
        compose_config(["data=shapes", "backbone=mmdit_tiny"])
    classes = compose_config([])
    with pytest.raises(DiffxError, match="data=digits has classes and takes no prompt"):
        make_conditions(classes, None, prompts=["a star"])
    assert "prompts" not in protocol(classes, "", "")
    assert replace(classes.eval, prompts="x").prompts == "x"
