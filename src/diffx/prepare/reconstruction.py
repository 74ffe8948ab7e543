"""`prepare check`: prepared latents, decoded as samples will be, against their images."""

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from diffx.assemble.latents import autoencoder_line
from diffx.data.latents import Latents
from diffx.errors import DiffxError
from diffx.features.inception import POOL_DIM, load_inception
from diffx.metrics.frechet import Moments, frechet_distance
from diffx.prepare.limits import check_count
from diffx.processes.devices import own_device

BATCH = 16


def check_reconstruction(root: Path, decoder: str | None = None, count: int = 256) -> str:
    """PSNR (dB, of the mean of the posterior, mean over images) and the Fréchet distance in Inception's features
    between `count` evenly spaced images and what their stored latents are decoded to, in words; and what the
    autoencoder costs.

    Raises:
        DiffxError: nothing is prepared, or an autoencoder that did not make these latents.
    """
    check_count("--count", count, 256)
    data, device = Latents(str(root), decoder=decoder), own_device("auto")
    data.provide(["image"], side=1)
    chosen = torch.from_numpy(np.unique(np.linspace(0, len(data) - 1, min(count, len(data))).round().astype(int)))
    images, decoded = [], []
    for part in chosen.split(BATCH):
        batch = data.batch(part)
        images.append(batch["image"])
        decoded.append(data.decode(batch["x"].to(device)).cpu())
    real, made = torch.cat(images), torch.cat(decoded)
    if real.shape != made.shape:
        raise DiffxError(
            f"{root}: images are {tuple(real.shape[1:])} and their latents decode to {tuple(made.shape[1:])}; prepare "
            "the latents of these images."
        )
    autoencoder = data.opened(device)
    return "\n".join(
        [
            autoencoder_line(autoencoder.name, autoencoder.network, real.shape[-1]),
            f"{len(real)} images decoded from their stored latents: PSNR {psnr(real, made).mean():.2f} dB",
            _distance(real, made, device),
        ]
    )


def psnr(images: Tensor, decoded: Tensor) -> Tensor:
    """Peak signal-to-noise ratio (B,) in dB of uint8 images (B, C, H, W); of equal ones infinite."""
    error = (images.double() - decoded.double()).square().flatten(1).mean(1)
    return 10 * torch.log10(255**2 / error)


def _distance(images: Tensor, decoded: Tensor, device: torch.device) -> str:
    """The Fréchet distance, or why there is none."""
    if len(images) < 2:
        return "no Fréchet distance: it needs the spread of several images"
    try:
        network, _ = load_inception()
    except DiffxError as error:
        return f"no Fréchet distance: {error}"
    network.to(device)
    gaussians = []
    for whole in (decoded, images):
        moments = Moments(lambda part: network(part.to(device)).pool, POOL_DIM)
        for part in whole.split(BATCH):
            moments.update(part)
        gaussians.append(moments.compute())
    return (
        f"Fréchet distance to the images {frechet_distance(*gaussians):.2f} (FID's Inception, {len(images)} images: "
        "far above the distance of 50,000, and to be compared at one number only)"
    )
