"""Runs small enough for a test: two blocks, sixteen tokens, a cheap sampler, no W&B."""

import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from diffx.config.compose import compose_config
from diffx.run.folder import RunDir
from diffx.train.loop import train
from tests import forks

SMALL = [
    "logger=none",
    "trainer.accelerator=cpu",
    "backbone.depth=3",
    "backbone.hidden_size=32",
    "backbone.num_heads=2",
    "backbone.patch_size=4",
    "batch_size=16",
    "sampler.nfe=2",
    "eval.samples=100",
    "eval.first=1000",
    "max_steps=8",
    "log_every=4",
]
OFTEN = ["checkpoint_minutes=0", "checkpoint_share=1000"]  # a checkpoint after every step
LONG = [*SMALL, "max_steps=100000", "log_every=1", "eval.first=1", "trainer.threads=1"]
SMALL_PLUGINS = {
    "repa": ["plugins.repa.projector_dim=32"],
    "mdt": ["backbone.decoder_layers=1"],
    "tread": ["plugins.tread.start=1", "plugins.tread.end=1"],
}


def small(*overrides: str, plugins: tuple[str, ...] = ()) -> list[str]:
    """The command line of a small run with these plugins."""
    chosen = [f"plugins=[{','.join(plugins)}]", *SMALL, *(s for name in plugins for s in SMALL_PLUGINS[name])]
    return [*chosen, *overrides]


@contextmanager
def training(
    folder: Path,
    *settings: str,
    environment: dict[str, str] | None = None,
    popen: type[subprocess.Popen[str]] = forks.Popen,
) -> Iterator[subprocess.Popen[str]]:
    """A run, or a sweep, that has taken its fourth step; a process group of its own, as a terminal makes them."""
    command = [sys.executable, "-u", "-m", "diffx", *LONG, *settings]
    with popen(
        command,
        cwd=folder,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    ) as process:
        assert process.stdout is not None
        try:
            for line in process.stdout:
                if "step 4 " in line:
                    break
            yield process
        finally:
            process.kill()


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., RunDir]:
    """Train a small run in a fresh folder."""
    monkeypatch.chdir(tmp_path)
    return lambda *overrides, plugins=(): train(compose_config(small(*overrides, plugins=plugins)))
