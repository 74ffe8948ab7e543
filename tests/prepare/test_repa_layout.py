"""REPA's folders are joined by file stem, whatever is missing between them."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from made_sources import picture

from diffx.data.latents import Latents
from diffx.errors import DiffxError
from diffx.prepare.published.repa import import_repa


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """Six samples as REPA's preprocessing writes them; latents name their sample."""
    root, labels = tmp_path / "repa", []
    for i in range(6):
        image = root / "images" / f"{i // 4:05d}" / f"img{i:08d}.png"
        latents = root / "vae-sd" / f"{i // 4:05d}" / f"img-mean-std-{i:08d}.npy"
        for file in (image, latents):
            file.parent.mkdir(parents=True, exist_ok=True)
        picture(i, (16, 16)).save(image)
        np.save(latents, np.full((8, 2, 2), i, np.float32))
        labels.append([latents.relative_to(root / "vae-sd").as_posix(), 10 * i])
    (root / "vae-sd" / "dataset.json").write_text(json.dumps({"labels": labels}))
    return root


def test_image_latents_and_label_of_one_stem_become_one_sample(source, tmp_path):
    import_repa(source, tmp_path / "out", shard_size=4)
    data = Latents(str(tmp_path / "out"))
    data.provide(["image"], side=1)
    batch = data.batch(torch.arange(6))
    for i in range(6):
        assert torch.equal(batch["image"][i], torch.from_numpy(np.array(picture(i, (16, 16)))).permute(2, 0, 1))
    torch.testing.assert_close(batch["x"][:, 0, 0, 0], 0.18215 * torch.arange(6.0))
    assert batch["y"].tolist() == [0, 10, 20, 30, 40, 50]


def test_a_missing_file_takes_out_one_sample_and_shifts_none(source, tmp_path):
    (source / "images" / "00000" / "img00000001.png").unlink()
    (source / "vae-sd" / "00000" / "img-mean-std-00000003.npy").unlink()
    manifest = import_repa(source, tmp_path / "out")
    assert manifest["rejected"] == [["00000/00000001", "no image"], ["00000/00000003", "no latents"]]
    data = Latents(str(tmp_path / "out"))
    data.provide(["image"], side=1)
    batch = data.batch(torch.arange(4))
    assert batch["y"].tolist() == [0, 20, 40, 50]
    assert torch.equal(batch["image"][1], torch.from_numpy(np.array(picture(2, (16, 16)))).permute(2, 0, 1))


def test_latents_of_another_shape_are_left_out_and_named(source, tmp_path):
    np.save(source / "vae-sd" / "00001" / "img-mean-std-00000005.npy", np.zeros((8, 4, 4), np.float32))
    manifest = import_repa(source, tmp_path / "out")
    ((key, reason),) = manifest["rejected"]
    assert key == "00001/00000005"
    assert "(8, 4, 4)" in reason


def test_another_layout_is_refused(tmp_path):
    with pytest.raises(DiffxError, match="not REPA's layout"):
        import_repa(tmp_path, tmp_path / "out")
