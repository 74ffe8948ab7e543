"""A run on data behind a URL, larger than its cache, is the run on the local folder bit for bit, also when resumed."""

import json
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from diffx.commands.plan import print_plan
from diffx.config.compose import compose_config
from diffx.data.stream import GROUP
from diffx.errors import DiffxError
from diffx.run.folder import RunDir
from diffx.train.loop import train
from tests.data_latents.served import Served, serving
from tests.data_latents.test_stream import held
from tests.prepare.made_sources import tiny_autoencoder
from tests.run.made_latents import NARROW, SMALL_LATENTS, made_latents

SAMPLES, DIM = 5 * GROUP, 768
ROW = 2 * 8 * 8 * 8 + 2 * 16 * DIM  # bytes of a latent and of the cached features
BOUND = 3 * GROUP * ROW  # holds two windows and not all five
STREAMED = [
    *("data=imagenet256", "backbone=tiny", "plugins=[repa]", "plugins.repa.encoder=dinov2_vitb14", *NARROW),
    *(*SMALL_LATENTS, f"data.source.window={GROUP}", f"data.source.cache_gb={BOUND / 1e9}"),
    *("batch_size=32", "log_every=1"),
]


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    return made_latents(folder / "made", tiny_autoencoder(folder / "autoencoder", levels=4), dim=DIM, samples=SAMPLES)


@pytest.fixture
def served(prepared: Path) -> Iterator[Served]:
    with serving(prepared) as there:
        yield there


def trained(root: object, folder: Path, steps: int, workers: int = 1) -> RunDir:
    places = [f"data.source.root={root}", f"runs_dir={folder / 'runs'}", f"data.source.cache={folder / 'cache'}"]
    return train(compose_config([*STREAMED, *places, f"max_steps={steps}", f"data.workers={workers}"]))


def weights(run: RunDir) -> dict[str, torch.Tensor]:
    found: dict[str, torch.Tensor] = torch.load(run.last_checkpoint, weights_only=True)["state_dict"]
    return found


def test_a_streamed_run_that_is_resumed_is_the_local_one_and_keeps_to_its_bound(
    prepared: Path, served: Served, tmp_path: Path
) -> None:
    """16 steps of 32 are more than an epoch and a half; resumed inside a window."""
    over, done = list[int](), threading.Event()

    def watch() -> None:
        while not done.wait(0.01):
            over.append(held(tmp_path / "there" / "cache"))

    watching = threading.Thread(target=watch)
    watching.start()
    try:
        first = trained(served.url, tmp_path / "there", 7).read_record()
        run = trained(served.url, tmp_path / "there", 16)
    finally:
        done.set()
        watching.join()
    local = trained(prepared, tmp_path / "here", 16, workers=0)
    assert GROUP * ROW < max(over) <= BOUND < SAMPLES * ROW
    assert run.path.relative_to(tmp_path / "there") == local.path.relative_to(tmp_path / "here")
    ours, theirs = weights(run), weights(local)
    assert all(torch.equal(value, theirs[key]) for key, value in ours.items())
    record = run.read_record()
    assert record["streamed_from"] == served.url
    assert record["fetched_gb"] > first["fetched_gb"] > 0
    assert record["fetched_gb"] * 1e9 > SAMPLES * ROW
    assert "streamed_from" not in json.loads((local.path / "run.json").read_text())


def test_a_window_that_the_cache_cannot_hold_twice_is_refused_before_a_run_begins(
    served: Served, tmp_path: Path
) -> None:
    words = [*STREAMED, f"data.source.root={served.url}", f"runs_dir={tmp_path}", f"data.source.window={2 * GROUP}"]
    with pytest.raises(DiffxError, match=r"too small for two windows .* data\.source\.cache_gb=1"):
        train(compose_config(words))
    assert not list(tmp_path.iterdir())


def test_the_plan_says_what_is_streamed_and_kept_or_why_it_cannot(
    served: Served, capsys: pytest.CaptureFixture[str]
) -> None:
    print_plan([*STREAMED, f"data.source.root={served.url}"])
    assert f"streams {served.url}: 5 windows of {GROUP} samples" in capsys.readouterr().out
    print_plan([*STREAMED, "data.source.root=s3://bucket/none"])
    assert "data: s3://bucket/none/latents/manifest.json needs a package that is not here" in capsys.readouterr().out
