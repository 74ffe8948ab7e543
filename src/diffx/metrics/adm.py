"""The ADM suite (Dhariwal & Nichol 2021): FID, sFID, Inception Score, precision and recall; and KID, of the same pass.

What has to agree with guided-diffusion's evaluator, number by number, stands in docs/evaluate.md.
"""

import os
from collections.abc import Iterable
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from diffx import ranks
from diffx.data.cache import digest, entry, home
from diffx.errors import DiffxError
from diffx.metrics.features import sample_count
from diffx.metrics.frechet import Moments, frechet_distance
from diffx.metrics.gather import all_gather_rows
from diffx.metrics.inception import POOL_DIM, SPATIAL_DIM, InceptionFeatures, load_inception
from diffx.metrics.inception_score import InceptionScore
from diffx.metrics.kernel_distance import kernel_distance
from diffx.metrics.precision_recall import NEIGHBOURS, precision_recall
from diffx.metrics.real_images import training_images
from diffx.metrics.reference import load_reference

if TYPE_CHECKING:
    from diffx.data import Data

BATCH = 64


class ADMMetrics:
    """Called with batches of uint8 samples (b, 1 or 3, H, W): fid_N, sfid_N, is_N, precision_N, recall_N and kid_N.

    N is the number of samples over all ranks. Rank r has to be given samples r, r + world, ... in this order, since the
    Inception Score depends on it. What the reference cannot give is left out: sfid without mu_s and sigma_s, precision,
    recall and kid without images. Nothing is downloaded.

    Args:
        data: whose training images are the reference "own" and the floor.
        reference: a file, a name in the references folder, or "own".
        weights: the file of FID's Inception; None looks in the usual places.
        device: where the network runs; None is this process's GPU, or the CPU without one.

    Raises:
        DiffxError: weights or reference are not to be found, or are of something else.
    """

    networks = ({"name": "inception", "family": "inception", "training": "supervised"},)

    def __init__(
        self, data: "Data | None", reference: str, weights: str | None = None, device: str | None = None
    ) -> None:
        cuda = f"cuda:{os.environ.get('LOCAL_RANK', 0)}" if torch.cuda.is_available() else "cpu"
        self.device = torch.device(device or cuda)
        network, sha256 = load_inception(weights)
        self._network = network.to(self.device)
        self._data = data
        self._reference = load_reference(reference, data, self._features, sha256)
        self.identity = f"adm {self._reference.identity} inception {sha256}"

    def __call__(self, batches: Iterable[Tensor]) -> dict[str, float]:
        """The values of all ranks' samples; every rank has to call it.

        Raises:
            DiffxError: too few samples for a covariance (2) or for precision and recall (4).
        """
        sums = _Sums(self.device)
        self._add(sums, batches, ranks.rank(), ranks.world())
        sums.all_reduce()
        return self._values(sums)

    def floor(self, count: int) -> dict[str, float]:
        """What `count` training images score, drawn with seed 0; kept in the cache folder, since 50,000 take minutes.
        Empty where the data set has no images at hand. Any rank may call it alone."""
        if self._data is None:
            return {}
        try:
            images = training_images(self._data, count, BATCH, seed=0)
        except DiffxError:
            return {}
        facts = {"floor": self.identity, "data": self._data.identity, "count": count}

        def make(target: os.PathLike[str]) -> dict[str, float]:
            sums = _Sums(self.device)
            self._add(sums, images, 0, 1)
            open(target, "wb").close()
            return self._values(sums)

        return entry(home() / "references" / f"floor-{digest(facts)}", facts, make)

    def _features(self, images: Tensor) -> InceptionFeatures:
        return self._network(images.to(self.device))

    def _add(self, sums: "_Sums", batches: Iterable[Tensor], rank: int, world: int) -> None:
        seen = 0
        for batch in batches:
            for images in batch.split(BATCH):
                sums.update(self._features(images), rank + world * torch.arange(seen, seen + len(images)))
                seen += len(images)

    def _values(self, sums: "_Sums") -> dict[str, float]:
        known, pool = self._reference, torch.cat(sums.features)
        values = {"fid": frechet_distance(sums.pool, known.pool)}
        if known.spatial is not None:
            values["sfid"] = frechet_distance(sums.spatial, known.spatial)
        values["is"] = sums.score.value
        if known.features is not None:
            real = known.features().to(self.device)
            values |= precision_recall(pool, real, NEIGHBOURS)._asdict() | {"kid": kernel_distance(pool, real)}
        return {f"{name}_{sample_count(sums.pool.n)}": value for name, value in values.items()}


class _Sums:
    """What is kept of samples: moments and score in float64, and the pool features themselves, 8 KB a sample."""

    def __init__(self, device: torch.device) -> None:
        self.pool, self.spatial = Moments(POOL_DIM, device), Moments(SPATIAL_DIM, device)
        self.score = InceptionScore()
        self.features: list[Tensor] = [torch.zeros(0, POOL_DIM, device=device)]

    def update(self, found: InceptionFeatures, indices: Tensor) -> None:
        self.pool.update(found.pool)
        self.spatial.update(found.spatial)
        self.score.update(found.logits, indices)
        self.features.append(found.pool)

    def all_reduce(self) -> None:
        """Sum and gather over all processes, in place."""
        for part in (self.pool, self.spatial, self.score):
            part.all_reduce()
        self.features = [all_gather_rows(torch.cat(self.features))]
