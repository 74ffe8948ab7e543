"""What samples are compared with: Inception statistics of real images, read from a file or computed and kept.

Files: ADM's VIRTUAL_*.npz (mu, sigma, mu_s, sigma_s and 10,000 images arr_0), the mu and sigma of clean-fid, EDM, MAR
and others, an .npz of images alone, and the .safetensors that diffx writes. FID and sFID use the stored moments, which
are those of the whole training set; only precision, recall and KID look at the images.
"""

import os
import zipfile
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from diffx.data.cache import digest, entry, home
from diffx.errors import DiffxError
from diffx.image_files import KEY, NpzImages
from diffx.metrics.frechet import Moments
from diffx.metrics.inception import POOL_DIM, SPATIAL_DIM, InceptionFeatures
from diffx.metrics.real_images import training_images

if TYPE_CHECKING:
    from diffx.data import Data

COMPARED = 10_000  # real images that precision, recall and KID look at, as in ADM's references
OWN = "own"
Network = Callable[[Tensor], InceptionFeatures]


@dataclass(frozen=True)
class Reference:
    """Statistics of real images: FID's, and where the file has them sFID's and what precision and recall need.

    identity: a short hash of the file's content (or of the data set). spatial: None for files of mu and sigma alone.
    features: computed or read when it is first asked for, (M, 2048); None where there are no images.
    """

    identity: str
    pool: Moments
    spatial: Moments | None
    features: Callable[[], Tensor] | None


def load_reference(name: str, data: "Data | None", network: Network, weights: str, batch_size: int = 64) -> Reference:
    """The reference `name`: a file, the name of one in the references folder, or "own" for data's training images.

    weights: which Inception, for the cache of what it computes.

    Raises:
        DiffxError: not found (the sentence says how to provide it), damaged, or another layout.
    """
    if name == OWN:
        return _own(data, network, weights, batch_size)
    file = find_reference(name)
    if file.suffix == ".safetensors":
        return _of_tensors(_read_tensors(file), "")
    if file.suffix != ".npz":
        raise DiffxError(
            f"eval.metrics.reference={name}: {file.suffix or 'a file without an ending'} is not read (a pickle can run "
            "code); type a .npz with mu and sigma, or a .safetensors of diffx."
        )
    return _of_npz(file, network, weights, batch_size)


def find_reference(name: str) -> Path:
    """`name` as a path, or NAME(.npz, _labeled.npz, .safetensors) in $DIFFX_REFERENCES or diffx's cache folder.

    Raises:
        DiffxError: says the ways to provide it.
    """
    folder = Path(os.environ.get("DIFFX_REFERENCES") or home() / "references").expanduser()
    endings = ("", ".npz", "_labeled.npz", ".safetensors")
    places = [Path(name).expanduser(), *(folder / f"{name}{ending}" for ending in endings)]
    if found := next((place for place in places if place.is_file()), None):
        return found
    raise DiffxError(
        f"eval.metrics.reference={name} is not here; download the reference batch from "
        f"https://github.com/openai/guided-diffusion/tree/main/evaluations and put it in {folder} (DIFFX_REFERENCES "
        "sets the folder), or type eval.metrics.reference= a file, or =own to compute it from the training images."
    )


def _of_npz(file: Path, network: Network, weights: str, batch_size: int) -> Reference:
    """CRC-32s of the arrays, which every .npz holds, identify it: nothing has to be read for that."""
    try:
        with zipfile.ZipFile(file) as archive:
            checksums = {member.filename.removesuffix(".npy"): member.CRC for member in archive.infolist()}
    except (OSError, zipfile.BadZipFile) as error:
        raise DiffxError(f"{file} cannot be read as an .npz file ({error}).") from error
    images = NpzImages(file) if KEY in checksums else None
    if not {"mu", "sigma"} <= checksums.keys():
        if images is None:
            raise DiffxError(f"{file} holds {', '.join(checksums) or 'nothing'}, and a reference has mu and sigma.")
        facts = {"reference": checksums[KEY], "images": len(images), "inception": weights}
        only = images
        return _computed(facts, lambda: _statistics(only.batches(batch_size), len(only), len(only), network))
    identity = digest({name: checksums[name] for name in ("mu", "sigma", "mu_s", "sigma_s", KEY) if name in checksums})
    pool = _gaussian(file, "mu", "sigma", POOL_DIM)
    spatial = _gaussian(file, "mu_s", "sigma_s", SPATIAL_DIM) if {"mu_s", "sigma_s"} <= checksums.keys() else None
    if images is None:
        return Reference(identity, pool, spatial, None)
    facts = {"features": checksums[KEY], "images": len(images), "inception": weights}
    known = images

    def features() -> Tensor:
        pool = (network(part).pool.cpu() for part in known.batches(batch_size))
        return _cached(facts, lambda: {"features": torch.cat(list(pool))})["features"]

    return Reference(identity, pool, spatial, features)


def _own(data: "Data | None", network: Network, weights: str, batch_size: int) -> Reference:
    if data is None:
        raise DiffxError("eval.metrics.reference=own needs a data set; type eval.metrics.reference= a file.")
    facts = {"data": data.identity, "compared": COMPARED, "inception": weights}
    images = training_images(data, len(data), batch_size)
    return _computed(facts, lambda: _statistics(images, len(data), COMPARED, network))


def _computed(facts: dict[str, Any], compute: Callable[[], dict[str, Tensor]]) -> Reference:
    """Statistics of images, from the cache folder if they were computed before."""
    return _of_tensors(_cached(facts, compute), digest(facts))


def _cached(facts: dict[str, Any], compute: Callable[[], dict[str, Tensor]]) -> dict[str, Tensor]:
    path = home() / "references" / f"inception-{digest(facts)}.safetensors"

    def make(target: Path) -> dict[str, Any]:
        print(f"Computing Inception statistics of real images, once: {path}", flush=True)
        save_file(compute(), target)
        return {}

    entry(path, facts, make)
    return load_file(path)


def _statistics(batches: Iterable[Tensor], count: int, compared: int, network: Network) -> dict[str, Tensor]:
    """Moments of `count` images, and the pool features of `compared` of them, evenly spaced."""
    pool, spatial, kept, seen = Moments(POOL_DIM), Moments(SPATIAL_DIM), [], 0
    chosen = torch.zeros(count, dtype=torch.bool)
    chosen[torch.linspace(0, count - 1, min(count, compared), dtype=torch.float64).round().long()] = True
    for images in batches:
        found = network(images)
        pool.update(found.pool)
        spatial.update(found.spatial)
        kept.append(found.pool.cpu()[chosen[seen : seen + len(images)]])
        seen += len(images)
    moments = {"mu": pool.mean, "sigma": pool.cov, "mu_s": spatial.mean, "sigma_s": spatial.cov}
    return {**{name: tensor.contiguous() for name, tensor in moments.items()}, "features": torch.cat(kept)}


def _of_tensors(tensors: dict[str, Tensor], identity: str) -> Reference:
    """A reference from what `_statistics` gave."""
    if not {"mu", "sigma"} <= tensors.keys():
        raise DiffxError(f"A reference has mu and sigma, and this one {', '.join(tensors) or 'nothing'}.")
    spatial = moments_of(tensors["mu_s"], tensors["sigma_s"]) if "mu_s" in tensors else None
    features = tensors.get("features")
    compared = None if features is None else lambda: features
    identity = identity or digest({name: tensor.double().sum().item() for name, tensor in tensors.items()})
    return Reference(identity, moments_of(tensors["mu"], tensors["sigma"]), spatial, compared)


def _read_tensors(file: Path) -> dict[str, Tensor]:
    try:
        return load_file(file)
    except (OSError, SafetensorError) as error:
        raise DiffxError(f"{file} cannot be read as safetensors ({error}).") from error


def _gaussian(file: Path, mean: str, cov: str, dim: int) -> Moments:
    """Two arrays of an .npz as moments. Raises DiffxError for another shape or values that are not finite."""
    try:
        with np.load(file, allow_pickle=False) as arrays:
            mu, sigma = (torch.from_numpy(np.asarray(arrays[name], np.float64)) for name in (mean, cov))
    except (OSError, ValueError, zipfile.BadZipFile, EOFError) as error:
        raise DiffxError(f"{file} is damaged ({error}).") from error
    if mu.shape != (dim,) or sigma.shape != (dim, dim):
        raise DiffxError(
            f"{file}: {mean} is {tuple(mu.shape)} and {cov} is {tuple(sigma.shape)}; statistics of Inception features "
            f"are ({dim},) and ({dim}, {dim})."
        )
    if not (mu.isfinite().all() and sigma.isfinite().all()):
        raise DiffxError(f"{file}: {mean} or {cov} holds NaN or infinity.")
    return moments_of(mu, sigma)


def moments_of(mean: Tensor, cov: Tensor) -> Moments:
    """Moments with this mean (D,) and unbiased covariance (D, D). Their number is not known and does not matter."""
    moments = Moments(len(mean))
    mean, cov = mean.double(), cov.double()
    moments.n, moments.sum, moments.outer = 2, 2 * mean, cov + 2 * torch.outer(mean, mean)
    return moments
