"""The shapes as latents of their small autoencoder: what a batch is, and a run that trains and samples on them."""

import pickle

import numpy as np
import pytest
import torch

from diffx.commands.sample import main as sample
from diffx.config.compose import compose_config
from diffx.data import Shapes
from diffx.embedded import networks, shipped
from diffx.embedded.latents import ShapesLatent
from diffx.errors import DiffxError
from diffx.pixels.values import signed
from diffx.store.digest import digest
from diffx.train.loop import train
from tests.run.conftest import SMALL

ON_LATENTS = [*SMALL, "data=shapes_latent", "data.source.count=200", "max_steps=2", "eval.samples=20"]


@pytest.fixture(scope="module")
def data() -> ShapesLatent:
    return ShapesLatent(count=200)


@torch.no_grad()
def test_x_is_the_scaled_posterior_of_the_image(data):
    batch, network = data.batch(torch.tensor([3, 150])), networks.autoencoder(data.images)
    mean, std = network.encode(signed(batch["image"])).chunk(2, dim=1)
    scale, shift = network.scale.view(-1, 1, 1), network.shift.view(-1, 1, 1)
    torch.testing.assert_close(batch["x"], (mean - shift) * scale, rtol=1e-3, atol=2e-3)
    torch.testing.assert_close(batch["x_std"], std * scale, rtol=1e-3, atol=1e-3)
    assert torch.equal(batch["y"], data.images.batch(torch.tensor([3, 150]))["y"])


def test_latents_have_mean_zero_and_deviation_one(data):
    x = data.batch(torch.arange(200))["x"]
    torch.testing.assert_close(x.mean((0, 2, 3)), torch.zeros(4), rtol=0, atol=0.1)
    torch.testing.assert_close(x.std((0, 2, 3)), torch.ones(4), rtol=0.1, atol=0)


def test_decoding_gives_the_images_back_as_well_as_the_record_says(data):
    batch = data.batch(torch.arange(200))
    decoded = data.decode(batch["x"])
    error = (decoded.float() - batch["image"].float()).square().mean()
    assert 10 * np.log10(255**2 / error) == pytest.approx(shipped.records()["shapes-autoencoder"]["psnr"], abs=0.5)


def test_the_autoencoder_of_the_default_shapes_comes_with_diffx_and_is_as_good_as_its_record_says(data):
    said = shipped.records()["shapes-autoencoder"]
    network = networks.autoencoder(Shapes())
    assert said["facts"] == digest(networks.facts(networks.AUTOENCODER, Shapes()))
    assert networks.reconstruction(network, data.images) == pytest.approx(said["psnr"], abs=0.05)


def test_a_run_trains_evaluates_through_the_decoder_and_is_sampled(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    settings = [
        "plugins=[sra2,repa]",
        "plugins.sra2.width=48",
        "plugins.repa.projector_dim=32",
        "backbone.patch_size=2",
    ]
    run = train(compose_config([*ON_LATENTS, *settings]))
    record = run.read_record()
    assert record["status"] == "complete"
    assert record["protocol"]["decoder"] == "embedded"
    assert run.last_point(2) == 2
    sample([str(run.path), "-n", "4", "sampler.nfe=2"])
    drawn = np.load(run.path / "samples" / "samples.npz")["arr_0"]
    assert drawn.shape == (4, 32, 32, 3)
    assert drawn.std() > 0


def test_a_copy_for_a_worker_has_no_network_and_gives_the_same_batch(data):
    data.decode(data.batch(torch.arange(1))["x"])
    copy = pickle.loads(pickle.dumps(data))
    assert "_autoencoder" in vars(data)
    assert "_autoencoder" not in vars(copy)
    assert torch.equal(copy.batch(torch.arange(2))["x"], data.batch(torch.arange(2))["x"])


def test_another_decoder_than_its_own_is_refused():
    with pytest.raises(DiffxError, match=r"made by an autoencoder of its own; type data\.decoder=embedded"):
        compose_config(["data=shapes_latent", "data.decoder=pixels"])
