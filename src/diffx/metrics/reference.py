"""What samples are compared with: statistics of real images, read from a file or computed and kept.

Files: ADM's VIRTUAL_*.npz (mu, sigma, mu_s, sigma_s and 10,000 images arr_0), the mu and sigma of clean-fid, EDM, MAR
and others, an .npz of images alone, and the .safetensors that diffx writes. FID and sFID use the stored moments, which
are those of the whole training set; only precision, recall, KID and other networks than Inception look at the images.
"""

import os
import time
import zipfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from diffx import ranks
from diffx.errors import DiffxError
from diffx.features.inception import POOL_DIM, SPATIAL_DIM
from diffx.metrics.frechet import Gaussian, Moments, gaussian_of_sums
from diffx.metrics.real_images import RealImages, training_images
from diffx.pixels.files import KEY, NpzImages
from diffx.store.cache import entry, home
from diffx.store.digest import digest

if TYPE_CHECKING:
    from diffx.data import Data

PART = 20_000  # images, of statistics that are computed in parts: a minute on a GPU
COMPARED = 10_000  # real images that precision, recall and kernel distances look at, as in ADM's references
OWN = "own"
NAMES = (("mu", "sigma"), ("mu_s", "sigma_s"))
Network = Callable[[Tensor], tuple[Tensor, ...]]
"""uint8 images to features: what FID looks at first, what sFID looks at second; the rest is left."""


@dataclass(frozen=True)
class Reference:
    """Statistics of real images: FID's, and where the file has them sFID's and what precision and recall need.

    identity: a short hash of the file's content (or of the data set). spatial: None for files of mu and sigma alone.
    features: computed or read when it is first asked for, (M, D); None where there are no images.
    """

    identity: str
    pool: Gaussian
    spatial: Gaussian | None
    features: Callable[[], Tensor] | None


def load_reference(name: str, data: "Data | None", network: Network, weights: str, batch_size: int = 64) -> Reference:
    """The reference `name` in Inception's features: a file, the name of one in the references folder, or "own" for
    data's training images.

    network: images to InceptionFeatures. weights: which Inception, for the cache of what it computes.

    Raises:
        DiffxError: not found (the sentence says how to provide it), damaged, or another layout.
    """
    if name != OWN:
        file = find_reference(name)
        if file.suffix == ".safetensors":
            return _of_tensors(_read_tensors(file), "")
        checksums = _checksums(file)
        if {"mu", "sigma"} <= checksums.keys():
            return _of_npz(file, checksums, network, weights, batch_size)
    return computed_reference(reference_images(name, data), network, "inception", weights, batch_size)


def computed_reference(
    images: RealImages, network: Network, name: str, weights: str, batch_size: int = 64
) -> Reference:
    """Statistics of these images in the features of a network, from the cache folder if they were computed before.

    Many are taken in parts, each kept as soon as it is whole: processes share them, and a kill costs one part.
    name, weights: which network, and which weights of it.
    """
    facts = images.facts | {"compared": COMPARED, name: weights}
    parts = max(1, images.count // PART)

    def part(number: int) -> dict[str, Tensor]:
        def compute() -> dict[str, Tensor]:
            return _sums(images, network, batch_size, number, parts)

        if parts == 1:
            return compute()
        return _cached(f"{name}-part", facts | {"part": number, "parts": parts}, compute)

    if parts > 1 and not _place(name, facts).exists():
        _share_parts(part, parts, images.count, name, lambda: _place(name, facts).exists())
    statistics = _cached(name, facts, lambda: _of_sums([part(number) for number in range(parts)]))
    for number in range(parts) if parts > 1 else ():
        for ending in ("", ".json", ".lock"):
            Path(f"{_place(f'{name}-part', facts | {'part': number, 'parts': parts})}{ending}").unlink(missing_ok=True)
    return _of_tensors(statistics, digest(facts))


def reference_images(name: str, data: "Data | None") -> RealImages:
    """The images of reference `name`: arr_0 of its file, or data's training images for "own".

    Raises:
        DiffxError: it has none, or is not to be found.
    """
    if name == OWN:
        if data is None:
            raise DiffxError("eval.metrics.reference=own needs a data set; type eval.metrics.reference= a file.")
        known = data
        training_images(known, range(0), 1)  # says so where there are none
        return RealImages({"data": data.identity}, len(data), partial(_in_turn, known))
    file = find_reference(name)
    checksums = {} if file.suffix == ".safetensors" else _checksums(file)
    if KEY not in checksums:
        held = ", ".join(checksums) or "statistics"
        raise DiffxError(f"{file} holds {held} and no images; type eval.metrics.reference= a file with {KEY}.")
    stored = NpzImages(file)
    return RealImages({"reference": checksums[KEY], "images": len(stored)}, len(stored), stored.batches)


def _in_turn(data: "Data", batch_size: int, first: int, step: int) -> Iterator[Tensor]:
    return training_images(data, range(first, len(data), step), batch_size)


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


def _checksums(file: Path) -> dict[str, int]:
    """CRC-32s of the arrays, which every .npz holds, identify it: nothing has to be read for that."""
    if file.suffix != ".npz":
        raise DiffxError(
            f"eval.metrics.reference={file}: {file.suffix or 'a file without an ending'} is not read (a pickle can run "
            "code); type a .npz with mu and sigma, or a .safetensors of diffx."
        )
    try:
        with zipfile.ZipFile(file) as archive:
            found = {member.filename.removesuffix(".npy"): member.CRC for member in archive.infolist()}
    except (OSError, zipfile.BadZipFile) as error:
        raise DiffxError(f"{file} cannot be read as an .npz file ({error}).") from error
    if not ({"mu", "sigma"} <= found.keys() or KEY in found):
        raise DiffxError(f"{file} holds {', '.join(found) or 'nothing'}, and a reference has mu and sigma.")
    return found


def _of_npz(file: Path, checksums: dict[str, int], network: Network, weights: str, batch_size: int) -> Reference:
    """The stored moments; features of the images, if there are any, when they are asked for."""
    identity = digest({name: checksums[name] for name in ("mu", "sigma", "mu_s", "sigma_s", KEY) if name in checksums})
    pool = _gaussian(file, "mu", "sigma", POOL_DIM)
    spatial = _gaussian(file, "mu_s", "sigma_s", SPATIAL_DIM) if {"mu_s", "sigma_s"} <= checksums.keys() else None
    if KEY not in checksums:
        return Reference(identity, pool, spatial, None)
    images = NpzImages(file)
    facts = {"features": checksums[KEY], "images": len(images), "inception": weights}

    def compute() -> dict[str, Tensor]:
        return {"features": torch.cat([network(part)[0].cpu() for part in images.batches(batch_size)])}

    return Reference(identity, pool, spatial, lambda: _cached("inception", facts, compute)["features"])


def _place(name: str, facts: dict[str, Any]) -> Path:
    return home() / "references" / f"{name}-{digest(facts)}.safetensors"


def _cached(name: str, facts: dict[str, Any], compute: Callable[[], dict[str, Tensor]]) -> dict[str, Tensor]:
    path = _place(name, facts)

    def make(target: Path) -> dict[str, Any]:
        if "part" not in facts:
            print(f"Computing {name} statistics of real images, once: {path}", flush=True)
        save_file(compute(), target)
        return {}

    entry(path, facts, make)
    return load_file(path)


def _share_parts(part: Callable[[int], object], parts: int, images: int, name: str, done: Callable[[], bool]) -> None:
    """Compute all parts, beginning where this rank's share begins, unless other processes were quicker; the first rank
    says how far all of them are."""
    begun = time.monotonic()
    for count in range(parts):
        if done():
            return
        part((ranks.rank() * parts // ranks.world() + count) % parts)
        if ranks.is_first():
            share = min(1.0, (count + 1) * ranks.world() / parts)
            left = timedelta(seconds=round((time.monotonic() - begun) * (1 - share) / share))
            print(f"{name} statistics of real images: {share * images:,.0f} of {images:,}, {left} left", flush=True)


def _sums(images: RealImages, network: Network, batch_size: int, number: int, parts: int) -> dict[str, Tensor]:
    """Of images number, number + parts, ...: sums of up to two kinds of features, and the first kind of those of them
    that are among COMPARED evenly spaced ones, with their places."""
    moments: list[Moments] = []
    kept = []
    chosen = torch.zeros(images.count, dtype=torch.bool)
    chosen[torch.linspace(0, images.count - 1, min(images.count, COMPARED), dtype=torch.float64).round().long()] = True
    places = torch.arange(images.count)[number::parts]
    for batch, at in zip(images.batches(batch_size, number, parts), places.split(batch_size), strict=True):
        found = network(batch)[: len(NAMES)]
        moments = moments or [Moments(torch.nn.Identity(), f.shape[1], sync_on_compute=False) for f in found]
        for sums, features in zip(moments, found, strict=True):
            sums.to(features.device).update(features)
        kept.append(found[0].cpu()[chosen[at]])
    tensors = {"features": torch.cat(kept), "places": places[chosen[places]]}
    for (mean, cov), sums in zip(NAMES, moments, strict=False):
        tensors |= {f"{mean}_n": sums.n.cpu(), mean: sums.sum.cpu(), cov: sums.outer.cpu().contiguous()}
    return tensors


def _of_sums(parts: Sequence[dict[str, Tensor]]) -> dict[str, Tensor]:
    """Moments and features of all images, from the sums of their parts."""
    order = torch.cat([part["places"] for part in parts]).argsort()
    tensors = {"features": torch.cat([part["features"] for part in parts])[order]}
    for mean, cov in NAMES:
        if mean in parts[0]:
            n, total, outer = (torch.stack([part[key] for part in parts]).sum(0) for key in (f"{mean}_n", mean, cov))
            gaussian = gaussian_of_sums(int(n), total, outer)
            tensors |= {mean: gaussian.mean, cov: gaussian.cov.contiguous()}
    return tensors


def _of_tensors(tensors: dict[str, Tensor], identity: str) -> Reference:
    """A reference from what `_of_sums` gave."""
    if not {"mu", "sigma"} <= tensors.keys():
        raise DiffxError(f"A reference has mu and sigma, and this one {', '.join(tensors) or 'nothing'}.")
    pool, spatial = (
        Gaussian(tensors[mean].double(), tensors[cov].double()) if mean in tensors else None for mean, cov in NAMES
    )
    assert pool is not None
    features = tensors.get("features")
    compared = None if features is None else lambda: features
    identity = identity or digest({name: tensor.double().sum().item() for name, tensor in tensors.items()})
    return Reference(identity, pool, spatial, compared)


def _read_tensors(file: Path) -> dict[str, Tensor]:
    try:
        return load_file(file)
    except (OSError, SafetensorError) as error:
        raise DiffxError(f"{file} cannot be read as safetensors ({error}).") from error


def _gaussian(file: Path, mean: str, cov: str, dim: int) -> Gaussian:
    """Two arrays of an .npz. Raises DiffxError for another shape or values that are not finite."""
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
    return Gaussian(mu, sigma)
