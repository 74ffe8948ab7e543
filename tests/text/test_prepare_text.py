"""Captions beside images, encoded into shards that join with the images, and what is said where there is none."""

import io
import json
import tarfile
from pathlib import Path

import numpy as np
import pytest
import torch

from diffx.backbone import TextShape
from diffx.commands.prepare import main
from diffx.data.latents import Latents
from diffx.data.shards import open_shards
from diffx.errors import DiffxError
from diffx.frozen.text import load_text_encoders
from diffx.prepare.text.captions import read_captions
from tests.prepare.made_sources import image_folder, picture, tiny_autoencoder
from tests.text import made_encoders as made

CAPTION = {
    "n01440764_0": "a red circle",
    "n01484850_2": "a large square",
    "n01440764_3": "small circle left of a square",
}


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return made.t5(tmp_path_factory.mktemp("encoder") / "t5")


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """Four pictures; two have a .txt, one a .json, one nothing."""
    source = image_folder(tmp_path / "source", count=4)
    for name, words in CAPTION.items():
        file = next(source.rglob(f"{name}.JPEG"))
        if name.endswith("3"):
            file.with_suffix(".json").write_text(json.dumps({"caption": words, "width": 8}))
        else:
            file.with_suffix(".txt").write_text(words + "\n")
    assert main(["images", str(source), str(tmp_path / "root"), "--resolution", "16"]) == 0
    return source


def prepare(source: Path, encoder: Path, *more: str) -> int:
    root = source.parent / "root"
    return main(["text", str(source), str(root), "--encoder", str(encoder), "--length", "8", *more])


def test_captions_of_a_folder_become_rows_and_a_missing_one_is_counted_and_named(source, encoder, capsys) -> None:
    assert prepare(source, encoder) == 0
    printed = capsys.readouterr().out
    assert "3 samples, 1 refused" in printed
    assert "refused n01443537/n01443537_1: it has no caption" in printed
    assert open_shards(source.parent / "root" / "text", "").shape == (8 * 24 + 1,)


def test_a_caption_that_is_too_long_is_named_and_not_cut(source, encoder, capsys) -> None:
    next(source.rglob("n01443537_1.JPEG")).with_suffix(".txt").write_text("a " * 20)
    assert prepare(source, encoder) == 0
    assert "its caption has 21 tokens, more than the encoder takes" in capsys.readouterr().out


def test_latents_are_conditioned_by_their_captions_and_prompts_are_encoded_alike(source, encoder, tmp_path) -> None:
    root, prompts = tmp_path / "root", tmp_path / "prompts.txt"
    prompts.write_text("a red circle\n\nsmall square\n")
    assert main(["latents", str(root), "--autoencoder", str(tiny_autoencoder(tmp_path / "vae"))]) == 0
    assert prepare(source, encoder, "--missing", "empty") == 0
    data = Latents(str(root), captions=True, prompts=str(prompts))
    assert (data.text, data.num_classes) == (TextShape(8, 24, 0), 0)
    assert [prompt.words for prompt in data.prompts] == ["a red circle", "small square"]
    y = data.batch(torch.arange(4))["y"]
    expected = load_text_encoders([str(encoder)], 8)(
        ["a red circle", "small circle left of a square", "", "a large square"]
    )
    for part, wanted in zip(y, expected, strict=True):
        torch.testing.assert_close(part, wanted, rtol=2e-3, atol=1e-3)
    torch.testing.assert_close(data.encode(["a red circle"]).tokens[0], y.tokens[0], rtol=2e-3, atol=1e-3)
    assert data.offline["text"].keys() == {"cpu_hours"}


def test_latents_without_a_caption_each_are_refused_and_named(source, encoder, tmp_path) -> None:
    assert main(["latents", str(tmp_path / "root"), "--autoencoder", str(tiny_autoencoder(tmp_path / "vae"))]) == 0
    assert prepare(source, encoder) == 0
    with pytest.raises(DiffxError, match="no caption of 1 of 4 samples, the first n01443537/n01443537_1"):
        Latents(str(tmp_path / "root"), captions=True)


def test_captions_stand_beside_images_in_a_webdataset_tar(tmp_path) -> None:
    file = tmp_path / "00000.tar"
    with tarfile.open(file, "w") as archive:
        for name, raw in (("1.txt", b"a red circle"), ("2.json", b'{"caption": "small"}'), ("3.json", b"no json")):
            entry = tarfile.TarInfo(name)
            entry.size = len(raw)
            archive.addfile(entry, io.BytesIO(raw))
    assert read_captions(str(file)) == {"1": "a red circle", "2": "small"}


def test_a_parquet_file_has_captions_in_a_column_and_needs_no_label(tmp_path, encoder) -> None:
    arrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    images = []
    for number in range(2):
        picture(number).save(raw := io.BytesIO(), format="png")
        images.append(raw.getvalue())
    table = arrow.table({"image": images, "caption": ["a red circle", ["small", "large"][0]]})
    parquet.write_table(table, tmp_path / "part.parquet")
    source, root = str(tmp_path / "part.parquet"), str(tmp_path / "root")
    assert main(["images", source, root, "--resolution", "16"]) == 0
    assert main(["text", source, root, "--encoder", str(encoder), "--length", "8"]) == 0
    shards = open_shards(tmp_path / "root" / "text", "")
    assert shards.index()[0].tolist() == [b"part/00000000", b"part/00000001"]
    assert shards.read(np.arange(2))[:, -1].tolist() == [4, 2]


def test_a_source_of_other_images_is_refused_with_the_first_key_that_was_looked_for(source, encoder, tmp_path, capsys):
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "x.txt").write_text("a red circle")
    assert main(["text", str(tmp_path / "other"), str(tmp_path / "root"), "--encoder", str(encoder)]) == 2
    assert "whose first is n01440764/n01440764_0" in capsys.readouterr().err
