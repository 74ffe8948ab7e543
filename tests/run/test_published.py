"""Experiments are the published settings: a table of the papers and of the released code, against what is composed.

A dash (None) is what was not established. The sources: each method's paper and repository, as its page names them.
"""

from typing import NamedTuple

import pytest

from diffx.config.compose import compose_config
from diffx.config.settings import Settings

EMA = "stabilityai/sd-vae-ft-ema"


class Published(NamedTuple):
    """flip: random horizontal flips. decoder: of the autoencoder in evaluation. lr, betas, clip: of the optimizer."""

    flip: bool | None
    decoder: str | None
    optimizer: str
    lr: float
    betas: tuple[float, ...]
    clip: float | None
    label_dropout: float = 0.1
    ema_decay: float = 0.9999
    weight_decay: float = 0.0


ADAMW = ("AdamW", 1e-4, (0.9, 0.999))
TABLE = {
    "dit": Published(True, EMA, *ADAMW, None),
    "sit": Published(True, EMA, *ADAMW, None),
    "repa": Published(False, EMA, *ADAMW, 1.0),
    "mdt": Published(True, EMA, "AdamW", 3e-4, (0.9, 0.999), None),
    "mdtv2": Published(True, EMA, "Adan", 3e-4, (0.98, 0.92, 0.99), 1.0),
    "tread": Published(None, None, *ADAMW, None),
    "maskdit": Published(None, None, *ADAMW, None),
    "ddt": Published(None, None, "AdamW", 1e-4, (0.9, 0.95), None),
    "reg": Published(False, EMA, *ADAMW, 1.0),
    "haste": Published(False, EMA, *ADAMW, 1.0),
    "sra": Published(None, EMA, *ADAMW, 1.0),
    "dispersive": Published(True, EMA, *ADAMW, None),
    "contrastive": Published(False, EMA, *ADAMW, 1.0),
}


def facts(settings: Settings) -> Published:
    return Published(
        settings.source.flip,
        settings.decoder,
        settings.optimizer.target.rpartition(".")[2],
        settings.optimizer.lr,
        tuple(settings.optimizer.betas),
        settings.trainer.gradient_clip_val,
        settings.label_dropout,
        settings.ema_decay,
        settings.optimizer.weight_decay,
    )


@pytest.mark.parametrize("method", TABLE)
def test_an_experiment_has_the_published_settings(method: str) -> None:
    found = facts(compose_config([f"+experiment={method}_xl"]))
    for name, published in TABLE[method]._asdict().items():
        if name in ("flip", "decoder") and published is None:
            continue
        assert getattr(found, name) == published, name


@pytest.mark.parametrize("size", ["s", "b", "l"])
def test_smaller_sizes_differ_in_the_learning_rate_of_mdtv2_alone(size: str) -> None:
    """MDTv2's script for S has 5e-4."""
    for method in ("dit", "sit", "repa", "mdt", "mdtv2"):
        lr = 5e-4 if (method, size) == ("mdtv2", "s") else TABLE[method].lr
        assert facts(compose_config([f"+experiment={method}_{size}"]))[:4] == TABLE[method]._replace(lr=lr)[:4]
