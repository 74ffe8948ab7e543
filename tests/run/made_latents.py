"""A small prepared folder: latents, images and encoder features of made-up samples, in the layout of diffx.prepare."""

from collections.abc import Iterable
from pathlib import Path

import numpy as np
from torch import Tensor
from torchmetrics import Metric

from diffx.prepare.job import Job, Process, Row, cut

SAMPLES, SIDE, CLASSES = 24, 8, 10
SMALL_LATENTS = [
    *(f"data.size={SIDE}", f"data.image_size={8 * SIDE}", f"data.num_classes={CLASSES}", "data.workers=0"),
    *("data.source.flip=false", "eval.decoder=null"),
]
"""Overrides that make data=imagenet256 the folder that `made_latents` writes; data.source.root is still to be set."""
NARROW = [
    *("logger=none", "trainer.devices=1", "batch_size=4", "max_steps=2", "backbone.hidden_size=32"),
    *("backbone.num_heads=2", "sampler.nfe=3", "eval.samples=4", "eval.batch_size=4", "ema_decay=0.5"),
    "eval.metrics._target_=tests.run.made_latents.CountedOnly",
]
"""Overrides that make an experiment narrow, but as deep as it is."""


class CountedOnly:
    """In place of the ADM suite, whose Inception weights are not at hand: how many samples there were."""

    networks: tuple[dict[str, str], ...] = ()
    identity = "counted"

    def __init__(self, **settings: object) -> None:
        self.metrics: dict[str, Metric] = {}

    def __call__(self, batches: Iterable[Tensor]) -> dict[str, float]:
        return {"samples": float(sum(len(batch) for batch in batches))}

    def floor(self, count: int) -> dict[str, float]:
        return {}


def made_latents(
    root: Path, autoencoder: Path, encoder: str = "dinov2_vitb14", dim: int = 768, samples: int = SAMPLES
) -> Path:
    """Write latents (8, 8, 8), images of 64 pixels and tokens (16, dim) of some samples; returns root."""
    rng = np.random.default_rng(0)
    moments = rng.standard_normal((samples, 8, SIDE, SIDE)).astype("f2")
    moments[:, 4:] = np.abs(moments[:, 4:]) / 8
    facts = {"autoencoder": str(autoencoder), "posterior": True, "shift": [0.0], "scale": [0.18215]}
    _write(root / "latents", moments, facts)
    _write(root / "images", rng.integers(0, 256, (samples, 3, 8 * SIDE, 8 * SIDE), dtype=np.uint8), {})
    tokens = rng.standard_normal((samples, (SIDE // 2) ** 2, dim)).astype("f2")
    _write(root / f"features-{encoder}", tokens, {"encoder": encoder, "grid": SIDE // 2})
    return root


def _write(folder: Path, rows: np.ndarray, facts: dict) -> None:
    keys = [f"class{i % CLASSES}/image{i}" for i in range(len(rows))]
    shards = cut(keys, [i % CLASSES for i in range(len(rows))], 10)
    of = dict(zip(keys, rows, strict=True))

    def make(shard: int, put) -> None:
        for key, label in zip(*shards[shard], strict=True):
            put(Row(key, label, of[key]))

    Job(folder, facts, shards, rows.shape[1:], str(rows.dtype), make).run(Process(0, 1, 0, 1))
