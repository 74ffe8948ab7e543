"""Made-up latents with their images, in REPA's layout of two files for each sample and in diffx's shards."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from diffx.data.latents import Latents
from diffx.prepare.published.repa import import_repa

Read = Callable[[Tensor], dict[str, Tensor]]  # indices (B,) -> a batch
CLASSES, SCALE = 1000, 0.18215


def write_layouts(root: Path, samples: int) -> None:
    """The same samples as root/repa and root/diffx: moments (8, 32, 32) and RGB images of 256 px."""
    write_repa_layout(root / "repa", samples)
    import_repa(root / "repa", root / "diffx")


def write_repa_layout(root: Path, samples: int) -> None:
    """images/**.png and vae-sd/**.npy (float32, uncompressed PNG as the converter writes it) with labels."""
    rng, labels = np.random.default_rng(0), []
    for i in range(samples):
        folder = f"{i // 1000:05d}"
        for part in ("images", "vae-sd"):
            (root / part / folder).mkdir(parents=True, exist_ok=True)
        small = Image.fromarray(rng.integers(0, 256, (24, 24, 3), dtype=np.uint8))
        small.resize((256, 256), Image.Resampling.BICUBIC).save(
            root / "images" / folder / f"img{i:08d}.png", compress_level=0
        )
        name = f"{folder}/img-mean-std-{i:08d}.npy"
        np.save(root / "vae-sd" / name, np.abs(rng.standard_normal((8, 32, 32), dtype=np.float32)))
        labels.append([name, i % CLASSES])
    (root / "vae-sd" / "dataset.json").write_text(json.dumps({"labels": labels}))


def shards(root: Path, images: bool) -> Read:
    """Batches from diffx's shards."""
    data = Latents(str(root / "diffx"), num_classes=CLASSES)
    data.provide(["image"] if images else [], side=16)
    return data.batch


class Files:
    """Batches as REPA's loader makes them: one file or two opened and decoded for each sample."""

    def __init__(self, root: Path, images: bool) -> None:
        self.moments = sorted((root / "repa" / "vae-sd").rglob("*.npy"))
        self.pictures = sorted((root / "repa" / "images").rglob("*.png")) if images else []

    def __call__(self, indices: Tensor) -> dict[str, Tensor]:
        rows = [torch.from_numpy(np.load(self.moments[i], allow_pickle=False)) for i in indices]
        mean, std = torch.stack(rows).chunk(2, dim=1)
        batch = {"x": mean * SCALE, "x_std": std * SCALE, "y": indices % CLASSES}
        if self.pictures:
            seen = [np.asarray(Image.open(self.pictures[i])).transpose(2, 0, 1) for i in indices]
            batch["image"] = torch.stack([torch.from_numpy(image.copy()) for image in seen])
        return batch


LAYOUTS: dict[str, Callable[[Path, bool], Read]] = {"shards": shards, "files": Files}
