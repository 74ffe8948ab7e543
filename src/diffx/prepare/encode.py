"""`prepare latents` and `prepare features`: one row for each prepared image, from a frozen network."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from diffx import ranks
from diffx.assemble.latents import autoencoder_line
from diffx.assemble.services import make_encoder
from diffx.data.shards import Shards, open_shards, read_note
from diffx.errors import DiffxError
from diffx.frozen.autoencoder import load_autoencoder
from diffx.frozen.encoder import check_grid, encoder_spec
from diffx.prepare.job import Job, Process, Put, store
from diffx.prepare.limits import check_count
from diffx.processes.arithmetic import set_tf32
from diffx.processes.devices import own_device

Network = Callable[[Tensor], Tensor]


def prepare_latents(root: Path, autoencoder: str, flip: bool = False, batch_size: int = 32) -> dict[str, Any] | None:
    """Write root/latents, and root/latents-flipped with `flip`: raw moments in float16, mean and standard deviation (of
    pixels the levels, uint8). Prints what the autoencoder costs and asks for.

    Returns the last manifest once every process is done.

    Raises:
        DiffxError: no images, an autoencoder that cannot be loaded, or a folder begun differently.
    """
    check_count("--batch-size", batch_size, 32)
    images, device = _images(root), _device()
    network = load_autoencoder(autoencoder).to(device)
    facts = {
        "autoencoder": network.name,
        "posterior": network.posterior,
        "shift": network.shift,
        "scale": network.scale,
    }
    if ranks.is_first():
        print(autoencoder_line(network.name, network.network, images.shape[-1]), flush=True)
    encode, posterior = network.encode, network.posterior
    return _encode_all(root / "latents", images, encode, device, facts, flip, batch_size, posterior, network.dtype)


def prepare_features(
    root: Path, encoder: str, grid: int | None = None, flip: bool = False, batch_size: int = 64
) -> dict[str, Any] | None:
    """Write root/features-ENCODER: the tokens (grid², dim) of every image in float16.

    grid: side of the backbone's grid of tokens; None is what the encoder gives, 16 at 256 px.

    Raises:
        DiffxError: no images, unknown encoder, no weights, or a grid that the encoder cannot give.
    """
    check_count("--batch-size", batch_size, 64)
    if grid is not None:
        check_count("--grid", grid, 16)
    images, device = _images(root), _device()
    spec, pixels = encoder_spec(encoder), images.shape[-1]
    if spec.model is None:
        raise DiffxError(f"encoder {encoder} is trained by diffx in a moment and needs no cache; type another.")
    side = pixels // spec.stride if grid is None else grid
    check_grid(spec, encoder, pixels, side)
    network = make_encoder(encoder, None, side, device)
    facts = {"encoder": encoder, "grid": side}
    return _encode_all(root / f"features-{encoder}", images, network, device, facts, flip, batch_size)


def _encode_all(
    folder: Path,
    images: Shards,
    network: Network,
    device: torch.device,
    facts: dict[str, Any],
    flip: bool,
    batch_size: int,
    posterior: bool | None = None,
    dtype: str = "float16",
) -> dict[str, Any] | None:
    """Fill `folder` (and its -flipped twin) with network(images), shard by shard as the images are cut."""
    notes = [read_note(images.folder, shard) or {} for shard in range(len(images.manifest["shards"]))]
    starts = np.cumsum([0, *(len(note["keys"]) for note in notes)])
    probe = network(torch.from_numpy(images.read(np.zeros(1, np.int64))).to(device))
    unit = "gpu_hours" if device.type == "cuda" else "cpu_hours"
    manifest = None
    for mirrored in (False, True) if flip else (False,):

        def make(shard: int, put: Put, mirrored: bool = mirrored) -> None:
            keys, labels = notes[shard]["keys"], notes[shard]["labels"]
            for start in range(0, len(keys), batch_size):
                rows = np.arange(start, min(start + batch_size, len(keys)))
                image = torch.from_numpy(images.read(starts[shard] + rows)).to(device)
                out = network(image.flip(-1) if mirrored else image).cpu().numpy()
                for row, array in zip(rows, out, strict=True):
                    put(store(keys[row], labels[row], array, dtype))

        job = Job(
            folder=folder.with_name(f"{folder.name}-flipped") if mirrored else folder,
            facts={**facts, "flipped": mirrored, "images": images.manifest["checksum"]},
            shards=[(note["keys"], note["labels"]) for note in notes],
            shape=tuple(probe.shape[1:]),
            dtype=dtype,
            make=make,
            unit=unit,
            posterior=posterior,
        )
        manifest = job.run(Process.here())
    return manifest


def _images(root: Path) -> Shards:
    return open_shards(root / "images", f"`python -m diffx.prepare images SRC {root} --resolution 256`")


def _device() -> torch.device:
    """The GPU of this process, or the CPU."""
    device = own_device("auto")
    if device.type == "cuda":
        set_tf32(True)
    return device
