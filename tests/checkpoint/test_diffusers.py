"""A DiT written for diffusers, loaded by diffusers itself."""

import pytest
import torch
from diffusers import AutoencoderKL, DDIMScheduler, DiTPipeline, DiTTransformer2DModel
from official_files import assert_agrees, official

from diffx.checkpoint import export_model, import_file
from diffx.checkpoint.diffusers import use_official_frequencies
from diffx.commands.checkpoint import main
from diffx.errors import DiffxError


@pytest.fixture
def folder(dit, tmp_path):
    """The tiny recorded DiT as diffusers' folder, by the two commands."""
    torch.save(dit.weights, tmp_path / "dit.pt")
    main(["import", str(tmp_path / "dit.pt"), "--as", dit.name, "-o", str(tmp_path / "model"), "--set", *dit.settings])
    main(["export", str(tmp_path / "model"), "--as", "diffusers", "-o", str(tmp_path / "transformer")])
    return tmp_path / "transformer"


def load(folder) -> DiTTransformer2DModel:
    model, report = DiTTransformer2DModel.from_pretrained(folder, output_loading_info=True)
    assert not any(report.values())  # no key missing, unexpected or of another shape
    return model.eval()


@torch.no_grad()
def test_diffusers_model_gives_the_recorded_output_at_dits_time_frequencies(dit, folder):
    model = use_official_frequencies(load(folder))
    assert_agrees(model(dit.io["x"], dit.io["t"], dit.io["y"]).sample, dit.io["out"])


@torch.no_grad()
def test_as_loaded_it_is_equal_at_time_0_where_the_frequencies_do_not_matter(dit, folder):
    model, t = load(folder), torch.zeros(3, dtype=torch.long)
    as_loaded = model(dit.io["x"], t, dit.io["y"]).sample
    late = model(dit.io["x"], dit.io["t"], dit.io["y"]).sample
    torch.testing.assert_close(use_official_frequencies(model)(dit.io["x"], t, dit.io["y"]).sample, as_loaded)
    assert (late - dit.io["out"]).abs().max() > 1e-3  # diffusers' own difference, which no weights can remove


@torch.no_grad()
def test_diffusers_pipeline_samples_from_it(folder):
    vae = AutoencoderKL(
        block_out_channels=(4, 4),
        norm_num_groups=2,
        latent_channels=4,
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
    )
    pipeline = DiTPipeline(load(folder), vae, DDIMScheduler())
    pipeline.set_progress_bar_config(disable=True)
    images = pipeline([1, 2], guidance_scale=1.0, num_inference_steps=3, output_type="np").images
    assert images.shape == (2, 16, 16, 3)


def test_a_model_that_diffusers_has_no_place_for_is_refused(tmp_path):
    for family in ("sit", "mdt"):
        file = official(family)
        torch.save(file.weights, tmp_path / f"{family}.pt")
        import_file(tmp_path / f"{family}.pt", file.name, tmp_path / family, changes=file.settings)
        with pytest.raises(DiffxError, match="cannot be written as dit"):
            export_model(tmp_path / family, "diffusers", tmp_path / "out")
        assert not (tmp_path / "out").exists()
