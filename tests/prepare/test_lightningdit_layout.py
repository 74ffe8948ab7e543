"""Latents in LightningDiT's layout become shards that train as prepared ones do."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from diffx.commands.prepare import main
from diffx.data.latents import Latents
from diffx.errors import DiffxError
from diffx.frozen.autoencoder import SPECS, AutoencoderSpec
from diffx.prepare.published.lightningdit import import_lightningdit
from diffx.prepare.verify import verify
from tests.prepare.test_autoencoders import ldm_state, vavae

STATISTICS = {"mean": torch.arange(4.0).view(1, 4, 1, 1), "std": torch.full((1, 4, 1, 1), 2.0)}


def write_file(folder: Path, name: str, first: int, count: int) -> None:
    """Rows whose latents are their number, and the number plus a half in the mirrored ones."""
    number = torch.arange(first, first + count, dtype=torch.float32).view(-1, 1, 1, 1).expand(-1, 4, 2, 2)
    tensors = {"latents": number, "latents_flip": number + 0.5, "labels": torch.arange(first, first + count) * 10}
    save_file({key: tensor.contiguous() for key, tensor in tensors.items()}, folder / name)


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """Two files, as two processes write them, and the statistics."""
    folder = tmp_path / "extracted"
    folder.mkdir()
    write_file(folder, "latents_rank00_shard000.safetensors", 0, 4)
    write_file(folder, "latents_rank01_shard000.safetensors", 4, 3)
    torch.save(STATISTICS, folder / "latents_stats.pt")
    return folder


def test_rows_keep_their_labels_and_are_scaled_by_the_statistics_beside_them(source: Path, tmp_path: Path) -> None:
    assert main(["import-lightningdit", str(source), str(tmp_path / "out"), "--shard-size", "3"]) == 0
    data = Latents(str(tmp_path / "out"), flip=True)
    batch = data.batch(torch.tensor([0, 5, 7 + 5]))
    assert batch["y"].tolist() == [0, 50, 50]
    assert (batch["x"][:, 1, 0, 0] * 2 + 1).tolist() == [0.0, 5.0, 5.5]
    assert "x_std" not in batch
    assert (data.autoencoder, data.shape, len(data)) == ("va_vae", (4, 2, 2), 14)
    assert verify(tmp_path / "out") == []


def test_a_killed_import_goes_on_and_another_source_is_refused(source: Path, tmp_path: Path) -> None:
    first = import_lightningdit(source, tmp_path / "out", shard_size=3)
    (tmp_path / "out" / "latents" / "manifest.json").unlink()
    (tmp_path / "out" / "latents" / "shard-00001.json").unlink()
    kept = tmp_path / "out" / "latents" / "shard-00000.npy"
    before = kept.stat().st_mtime_ns
    assert first is not None
    again = import_lightningdit(source, tmp_path / "out", shard_size=3)
    assert again is not None
    assert (again["checksum"], kept.stat().st_mtime_ns) == (first["checksum"], before)
    write_file(source, "latents_rank02_shard000.safetensors", 7, 1)
    with pytest.raises(DiffxError, match=r"begun with 7 samples; the source \(8 now\)"):
        import_lightningdit(source, tmp_path / "out", shard_size=3)


def test_what_cannot_be_stored_is_left_out_and_named(source: Path, tmp_path: Path) -> None:
    latents = torch.zeros(3, 4, 2, 2)
    latents[1, 0, 0, 0] = 1e6
    tensors = {"latents": latents, "latents_flip": latents.clone(), "labels": torch.tensor([1, 2, -1])}
    save_file(tensors, source / "latents_rank02_shard000.safetensors")
    manifest = import_lightningdit(source, tmp_path / "out")
    assert manifest is not None
    assert [key for key, _ in manifest["rejected"]] == [f"latents_rank02_shard000/{row:06d}" for row in (1, 2)]
    assert "not finite in float16" in manifest["rejected"][0][1]
    assert "-1 is no class number" in manifest["rejected"][1][1]
    assert manifest["samples"] == 8


@pytest.mark.parametrize(
    ("tensors", "why"),
    [
        ({"latent": torch.zeros(2, 4, 2, 2)}, "latents and labels are wanted"),
        ({"latents": torch.zeros(2, 4, 2, 2), "labels": torch.zeros(3, dtype=torch.long)}, "as many whole numbers"),
        ({"latents": torch.zeros(2, 4, 2, 2), "labels": torch.zeros(2)}, "as many whole numbers"),
        ({"latents": torch.zeros(2, 8, 2, 2), "labels": torch.zeros(2, dtype=torch.long)}, "not of one extraction"),
    ],
)
def test_a_file_of_another_layout_is_refused_in_a_sentence(
    tensors: dict[str, torch.Tensor], why: str, source: Path, tmp_path: Path
) -> None:
    save_file(tensors, source / "latents_rank02_shard000.safetensors")
    with pytest.raises(DiffxError, match=why):
        import_lightningdit(source, tmp_path / "out")


def test_without_files_or_statistics_the_sentence_says_what_is_wanted(source: Path, tmp_path: Path) -> None:
    with pytest.raises(DiffxError, match="is not LightningDiT's layout"):
        import_lightningdit(tmp_path / "nowhere", tmp_path / "out")
    (source / "latents_stats.pt").unlink()
    with pytest.raises(DiffxError, match=r"has no latents_stats\.pt"):
        import_lightningdit(source, tmp_path / "out")
    (source / "bad.safetensors").write_bytes(b"no tensors")
    with pytest.raises(DiffxError, match="cannot be read as safetensors"):
        import_lightningdit(source, tmp_path / "out")


def test_the_autoencoder_decodes_them_although_its_own_statistics_were_measured_elsewhere(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(SPECS, "va_vae", AutoencoderSpec("hustvl/vavae", 4, 2, "ldm", statistics=True))
    monkeypatch.setenv("DIFFX_WEIGHTS", str(tmp_path / "weights"))
    vavae(tmp_path / "weights" / "va_vae", ldm_state(), {"mean": STATISTICS["mean"] + 0.05, "std": STATISTICS["std"]})
    import_lightningdit(source, tmp_path / "out")
    assert Latents(str(tmp_path / "out")).decode(torch.zeros(1, 4, 2, 2)).shape == (1, 3, 4, 4)
    torch.save({"mean": STATISTICS["mean"], "std": 2 * STATISTICS["std"]},
               tmp_path / "weights" / "va_vae" / "latents_stats.pt")  # fmt: skip
    with pytest.raises(DiffxError, match="has another latent space"):
        Latents(str(tmp_path / "out")).decode(torch.zeros(1, 4, 2, 2))
