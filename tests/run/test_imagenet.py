"""A user's way from a folder of pictures to samples: prepare, kill, go on, train on latents, kill, go on, sample."""

import json
import os
import re
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from safetensors.torch import load_file

from diffx.commands.prepare import main, parser
from diffx.config.compose import compose_config
from diffx.data.shards import open_shards
from diffx.train.loop import train
from tests import forks
from tests.prepare.made_sources import image_folder, tiny_autoencoder
from tests.run.conftest import OFTEN
from tests.run.made_latents import NARROW, SIDE

ROOT = Path(__file__).parents[2]
CORRUPT = (100, 250, 499)
RUN = [
    *("+experiment=repa_s", *NARROW, "max_steps=12", "log_every=1", "trainer.threads=1"),
    *(f"data.size={SIDE}", f"data.image_size={8 * SIDE}", "data.num_classes=3", "data.encoder=dinov2_vits14"),
    *("plugins.repa.encoder=dinov2_vits14", "plugins.repa.projector_dim=32", "eval.decoder=null"),
]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A working directory with weights, an autoencoder, and 497 readable pictures prepared as data/imagenet256."""
    place = tmp_path_factory.mktemp("place")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(place)
        patch.setenv("DIFFX_WEIGHTS", str(place / "weights"))
        tiny_autoencoder(place / "weights" / "vae", levels=4)
        torch.manual_seed(0)
        encoder = timm.create_model("vit_small_patch14_dinov2", pretrained=False, num_classes=0).state_dict()
        # The published file has a mask token, which timm leaves out.
        torch.save(encoder | {"mask_token": torch.zeros(1, 384)}, place / "weights" / "dinov2_vits14.pth")
        image_folder(place / "pictures", 500, CORRUPT)
        assert (
            main(["images", "pictures", "data/imagenet256", "--resolution", str(8 * SIDE), "--shard-size", "20"]) == 0
        )
        yield place


@pytest.fixture(scope="module")
def prepared(place: Path) -> Path:
    """Its latents, made in two goes, and an encoder's features."""
    command = ["-m", "diffx.prepare", "latents", "data/imagenet256", "--autoencoder", "vae"]
    folder = place / "data/imagenet256/latents"
    with started(place, *command) as process:
        while not (folder / "shard-00003.json").exists():
            assert process.poll() is None
            time.sleep(0.001)
        process.send_signal(signal.SIGKILL)
    assert not (folder / "manifest.json").exists()
    finished = {file: file.stat().st_mtime_ns for file in folder.glob("shard-*.npy")}
    with started(place, *command) as process:
        assert process.wait() == 0
    assert {file: file.stat().st_mtime_ns for file in finished} == finished
    assert main(["features", "data/imagenet256", "--encoder", "dinov2_vits14"]) == 0
    assert main(["verify", "data/imagenet256"]) == 0
    return place / "data/imagenet256"


def started(place: Path, *arguments: str) -> subprocess.Popen[str]:
    path = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])  # for CountedOnly
    environment = os.environ | {"PYTHONPATH": path, "OMP_NUM_THREADS": "1"}
    return forks.Popen(
        [sys.executable, "-u", *arguments], cwd=place, env=environment, stdout=subprocess.PIPE, text=True
    )


def trained(*overrides: str) -> dict[str, torch.Tensor]:
    """The EMA weights of a run in this process."""
    return load_file(train(compose_config([*RUN, *overrides])).ema_weights)


def test_every_readable_picture_has_a_latent_and_features_under_its_key(prepared: Path) -> None:
    keys = {
        name: open_shards(prepared / name, "").index()[0] for name in ("images", "latents", "features-dinov2_vits14")
    }
    assert {name: len(set(found.tolist())) for name, found in keys.items()} == dict.fromkeys(keys, 497)
    assert len({frozenset(found.tolist()) for found in keys.values()}) == 1
    refused = json.loads((prepared / "images/manifest.json").read_text())["rejected"]
    assert sorted(int(key.rpartition("_")[2]) for key, _ in refused) == list(CORRUPT)


@pytest.mark.slow
def test_training_on_latents_killed_and_started_again_ends_with_the_bits_of_one_go(prepared: Path, place: Path) -> None:
    """With an encoder that runs on the images, and two processes that read batches."""
    command = [
        "-m",
        "diffx",
        *RUN,
        "data.workers=2",
        "data.source.cached_features=false",
        *OFTEN,
    ]
    with started(place, *command, "runs_dir=killed") as process:
        while not list(place.glob("killed/repa_s/*/s0/checkpoints/last.ckpt")):
            assert process.poll() is None
            time.sleep(0.001)
        process.send_signal(signal.SIGKILL)
    with started(place, *command, "runs_dir=killed") as process:
        output = process.stdout.read()
    assert process.returncode == 0, output
    assert "going on from step" in output
    (run,) = place.glob("killed/repa_s/*/s0")
    assert [json.loads(line)["step"] for line in (run / "curve.jsonl").read_text().splitlines()] == [12]
    assert list(run.glob("samples/*.png"))
    whole = trained("data.workers=0", "data.source.cached_features=false", "runs_dir=whole")
    for name, tensor in load_file(run / "checkpoints/ema.safetensors").items():
        assert torch.equal(tensor, whole[name]), name


def test_the_number_of_processes_that_read_batches_changes_no_bit(prepared: Path) -> None:
    alone, workers = (trained(f"data.workers={count}", f"runs_dir=workers{count}") for count in (0, 2))
    assert all(torch.equal(workers[name], tensor) for name, tensor in alone.items())


@pytest.mark.slow
def test_samples_of_a_run_on_latents_are_decoded_to_pictures(prepared: Path, place: Path) -> None:
    run = train(compose_config([*RUN, "runs_dir=sampled", "max_steps=2"]))
    with started(place, "-m", "diffx.sample", str(run.path), "-n", "6", "--trust") as process:
        output = process.stdout.read()
    assert process.returncode == 0, output
    samples = np.load(run.path / "samples/samples.npz", allow_pickle=False)["arr_0"]
    assert (samples.shape, samples.dtype) == ((6, 8 * SIDE, 8 * SIDE, 3), np.uint8)


def typed() -> list[list[str]]:
    """The arguments of every `-m diffx.prepare` command of the pages."""
    pages = "".join((ROOT / "docs" / f"{name}.md").read_text() for name in ("imagenet", "prepare", "cluster"))
    blocks = "".join(re.findall(r"```(?:sh|bash|)\n(.*?)```", pages, re.DOTALL)).replace("\\\n", " ")
    return [shlex.split(found, comments=True) for found in re.findall(r"-m diffx\.prepare (.*)", blocks)]


def test_the_preparation_commands_of_the_pages_are_accepted() -> None:
    assert len(typed()) > 5
    for arguments in typed():
        parser().parse_args(arguments)
