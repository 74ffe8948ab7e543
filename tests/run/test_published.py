"""Experiments are the published settings: a table of the papers and of the released code, against what is composed.

None is what was not established, or the autoencoder that encoded. The sources: each experiment's head names them.
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
    "dit_xl": Published(True, EMA, *ADAMW, None),
    "sit_xl": Published(True, EMA, *ADAMW, None),
    "repa_xl": Published(False, EMA, *ADAMW, 1.0),
    "mdt_xl": Published(True, EMA, "AdamW", 3e-4, (0.9, 0.999), None),
    "mdtv2_xl": Published(True, EMA, "Adan", 3e-4, (0.98, 0.92, 0.99), 1.0),
    "tread_xl": Published(None, EMA, *ADAMW, None),
    "maskdit_xl": Published(False, None, *ADAMW, None),
    "ddt_xl": Published(False, EMA, "AdamW", 1e-4, (0.9, 0.95), None),
    "reg_xl": Published(False, EMA, *ADAMW, 1.0),
    "haste_xl": Published(False, EMA, *ADAMW, 1.0),
    "sra_xl": Published(False, EMA, *ADAMW, 1.0),
    "dispersive_xl": Published(True, EMA, *ADAMW, None),
    "contrastive_xl": Published(False, EMA, *ADAMW, 1.0),
    "layersync_xl": Published(True, EMA, *ADAMW, None),
    "self_flow_xl": Published(False, EMA, *ADAMW, 1.0),
    "irepa_xl": Published(False, None, *ADAMW, 1.0),
    "sprint_xl": Published(False, EMA, *ADAMW, 1.0),
    "sr_dit_b": Published(False, None, *ADAMW, 1.0),
    "improved_dit_xl": Published(False, EMA, *ADAMW, None),
    "lightningdit_xl": Published(True, None, "AdamW", 2e-4, (0.9, 0.95), None),
    "rae_ddt_xl": Published(True, None, "AdamW", 2e-4, (0.9, 0.95), 1.0, ema_decay=0.9995),
    "rae2_xl": Published(True, None, "MuonAdamW", 2e-4, (0.9, 0.95), 1.0, ema_decay=0.9995),
    "jit_b": Published(True, None, "AdamW", 2e-4, (0.9, 0.95), None),
    "uvit_h": Published(True, EMA, "AdamW", 2e-4, (0.99, 0.99), None, weight_decay=0.03),
    "t2i_b": Published(False, EMA, *ADAMW, 1.0),
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


@pytest.mark.parametrize("experiment", TABLE)
def test_an_experiment_has_the_published_settings(experiment: str) -> None:
    found = facts(compose_config([f"+experiment={experiment}"]))
    for name, published in TABLE[experiment]._asdict().items():
        if name in ("flip", "decoder") and published is None:
            continue
        assert getattr(found, name) == published, name


@pytest.mark.parametrize("size", ["s", "b", "l"])
def test_smaller_sizes_differ_in_the_learning_rate_of_mdtv2_alone(size: str) -> None:
    """MDTv2's script for S has 5e-4."""
    for method in ("dit", "sit", "repa", "mdt", "mdtv2"):
        lr = 5e-4 if (method, size) == ("mdtv2", "s") else TABLE[f"{method}_xl"].lr
        assert facts(compose_config([f"+experiment={method}_{size}"]))[:4] == TABLE[f"{method}_xl"]._replace(lr=lr)[:4]
