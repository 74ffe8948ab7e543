"""A DiT written for diffusers, loaded by diffusers itself."""

import argparse

import numpy as np
import pytest
import torch
from diffusers import (
    AutoencoderKL,
    DDIMScheduler,
    DiffusionPipeline,
    DiTPipeline,
    DiTTransformer2DModel,
    FlowMatchEulerDiscreteScheduler,
)
from official_files import assert_agrees, official

from diffx.checkpoint import export_model, import_file, open_backbone
from diffx.checkpoint.diffusers import use_official_frequencies
from diffx.commands.checkpoint import main
from diffx.errors import DiffxError
from diffx.objective import Interpolant
from diffx.sampler import Euler, Field, Guidance, SampleNoise


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


def tiny_vae() -> AutoencoderKL:
    return AutoencoderKL(
        block_out_channels=(4, 4),
        norm_num_groups=2,
        latent_channels=4,
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
    )


@torch.no_grad()
def test_diffusers_pipeline_samples_from_it(folder):
    pipeline = DiTPipeline(load(folder), tiny_vae(), DDIMScheduler())
    pipeline.set_progress_bar_config(disable=True)
    images = pipeline([1, 2], guidance_scale=1.0, num_inference_steps=3, output_type="np").images
    assert images.shape == (2, 16, 16, 3)


@pytest.fixture(scope="module")
def flow(tmp_path_factory):
    """The tiny recorded REPA as a model of ours and as a pipeline folder."""
    folder, repa = tmp_path_factory.mktemp("flow"), official("repa")
    torch.save(repa.weights, folder / "repa.pt")
    import_file(folder / "repa.pt", repa.name, folder / "model", changes=repa.settings)
    export_model(folder / "model", "diffusers", folder / "pipeline")
    return folder


@torch.no_grad()
def test_a_velocity_network_gives_our_output_at_a_thousand_times_the_time(flow):
    repa = official("repa")
    model = load(flow / "pipeline" / "transformer")
    for t in (repa.io["t"], torch.zeros(3), torch.ones(3), torch.tensor([0.001, 0.25, 0.98])):
        ours = open_backbone(flow / "model")(repa.io["x"], t, repa.io["y"])
        assert_agrees(model(repa.io["x"], 1000 * t, repa.io["y"]).sample, ours)


@torch.no_grad()
def test_diffusers_flow_matching_scheduler_gives_our_samples_for_our_noise(flow):
    model, scheduler = (
        load(flow / "pipeline" / "transformer"),
        FlowMatchEulerDiscreteScheduler.from_pretrained(flow / "pipeline" / "scheduler"),
    )
    start, labels = SampleNoise(0, range(3)).draw((4, 8, 8)), torch.tensor([1, 2, 3])
    x = start.float()
    scheduler.set_timesteps(sigmas=np.linspace(1, 0.1, 10))
    for t in scheduler.timesteps:
        x = scheduler.step(model(x, t.expand(3), labels).sample, t, x).prev_sample
    assert_agrees(x, Euler(10)(ours_on(flow, labels), start, None).float())


@pytest.mark.parametrize("scale", [1.0, 2.5])
def test_the_folder_is_a_pipeline_that_gives_our_samples_guided_or_not(flow, scale):
    pipeline = DiffusionPipeline.from_pretrained(flow / "pipeline", trust_remote_code=True)
    pipeline.set_progress_bar_config(disable=True)
    start, labels = SampleNoise(0, range(3)).draw((4, 8, 8)), torch.tensor([1, 2, 3])
    drawn = pipeline([1, 2, 3], 10, scale, latents=start.float()).images
    with torch.no_grad():
        assert_agrees(drawn, Euler(10)(ours_on(flow, labels, scale), start, None).float())
    pipeline.register_modules(vae=tiny_vae())
    assert np.asarray(pipeline([1], 2).images[0]).shape == (16, 16, 3)


def ours_on(flow, labels, scale=1.0) -> Field:
    backbone = open_backbone(flow / "model")
    return Field(backbone, Interpolant(), labels, backbone.null_condition(labels), Guidance(scale))


@pytest.mark.parametrize(
    ("family", "sentence"),
    [("mdt", "it is a MDTBackbone, and diffusers has a DiT"), ("lightningdit", "norm=scaled_rmsnorm where diffusers")],
)
def test_a_model_that_diffusers_has_no_place_for_is_refused_by_the_name_that_was_typed(tmp_path, family, sentence):
    file = official(family)
    torch.save(file.weights, tmp_path / f"{family}.pt")
    import_file(tmp_path / f"{family}.pt", file.name, tmp_path / family, changes=file.settings)
    with pytest.raises(DiffxError, match=f"cannot be written as diffusers: .*{sentence}"):
        export_model(tmp_path / family, "diffusers", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_sit_that_predicts_noise_is_no_flow_matching(tmp_path):
    sit = official("sit")
    torch.save({"ema": sit.weights, "args": argparse.Namespace(prediction="noise")}, tmp_path / "sit.pt")
    import_file(tmp_path / "sit.pt", sit.name, tmp_path / "model", changes=sit.settings)
    with pytest.raises(DiffxError, match=r"prediction=noise where flow matching has velocity"):
        export_model(tmp_path / "model", "diffusers", tmp_path / "out")
    assert not (tmp_path / "out").exists()
