"""Runs small enough for a test: two blocks, sixteen tokens, a cheap sampler, no W&B."""

from collections.abc import Callable
from pathlib import Path

import pytest

from diffx.compose import compose_config
from diffx.run import RunDir
from diffx.train import train

SMALL = [
    "logger=none",
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
SMALL_PLUGINS = {
    "repa": ["plugins.repa.projector_dim=32"],
    "mdt": ["backbone.decoder_layers=1"],
    "tread": ["plugins.tread.start=1", "plugins.tread.end=1"],
}


def small(*overrides: str, plugins: tuple[str, ...] = ()) -> list[str]:
    """The command line of a small run with these plugins."""
    chosen = [f"plugins=[{','.join(plugins)}]", *SMALL, *(s for name in plugins for s in SMALL_PLUGINS[name])]
    return [*chosen, *overrides]


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., RunDir]:
    """Train a small run in a fresh folder."""
    monkeypatch.chdir(tmp_path)
    return lambda *overrides, plugins=(): train(compose_config(small(*overrides, plugins=plugins)))
