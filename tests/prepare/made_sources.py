"""Small sources in the layouts that people have."""

import io
import tarfile
from pathlib import Path

import numpy as np
import torch
from PIL import Image

CLASSES = ("n01440764", "n01443537", "n01484850")


def picture(seed: int, size: tuple[int, int] = (40, 56)) -> Image.Image:
    """A smooth colour picture of (width, height)."""
    rng = np.random.default_rng(seed)
    return Image.fromarray(rng.integers(0, 256, (5, 4, 3), dtype=np.uint8)).resize(size, Image.Resampling.BICUBIC)


def image_folder(root: Path, count: int = 12, corrupt: tuple[int, ...] = ()) -> Path:
    """`count` pictures in three class folders; those numbered in `corrupt` are cut short."""
    for i in range(count):
        file = root / CLASSES[i % 3] / f"{CLASSES[i % 3]}_{i}.JPEG"
        file.parent.mkdir(parents=True, exist_ok=True)
        picture(i).save(file, quality=95)
        if i in corrupt:
            file.write_bytes(file.read_bytes()[:200])
    return root


def tar_of_tars(file: Path, folder: Path) -> Path:
    """The layout of ImageNet's archive: one tar per class inside a tar."""
    with tarfile.open(file, "w") as outer:
        for name in sorted(CLASSES):
            inner = io.BytesIO()
            with tarfile.open(fileobj=inner, mode="w") as archive:
                for image in sorted((folder / name).iterdir()):
                    archive.add(image, image.name)
            entry = tarfile.TarInfo(f"{name}.tar")
            entry.size = inner.tell()
            inner.seek(0)
            outer.addfile(entry, inner)
    return file


def tiny_autoencoder(folder: Path, levels: int = 2) -> Path:
    """A random AutoencoderKL as diffusers saves it, whose latents have one pixel for 2^(levels - 1) of the image."""
    from diffusers import AutoencoderKL

    torch.manual_seed(0)
    blocks = {"down_block_types": ("DownEncoderBlock2D",) * levels, "up_block_types": ("UpDecoderBlock2D",) * levels}
    network = AutoencoderKL(
        **blocks,
        block_out_channels=(4, *(8,) * (levels - 1)),
        norm_num_groups=2,
        latent_channels=4,
        scaling_factor=0.18215,
    )
    network.save_pretrained(folder)
    return folder
