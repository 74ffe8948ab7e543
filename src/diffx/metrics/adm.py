"""The ADM suite (Dhariwal & Nichol 2021): FID, sFID, Inception Score, precision and recall; KID of the same pass; and
Fréchet and kernel distances in a second feature space, DINOv2's.

What has to agree with guided-diffusion's evaluator, number by number, stands in docs/evaluation.md.
"""

import os
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor
from torchmetrics import Metric, MetricCollection

from diffx.errors import DiffxError
from diffx.features.dinov2 import DINOv2, look_for_dinov2
from diffx.features.inception import find_weights, load_inception
from diffx.frozen.untrained import RANDOM
from diffx.metrics.frechet import FrechetDistance
from diffx.metrics.image_metric import Once
from diffx.metrics.inception_score import InceptionScore
from diffx.metrics.kernel_distance import KernelDistance
from diffx.metrics.measure import measure, sample_count
from diffx.metrics.precision_recall import Precision, Recall
from diffx.metrics.real_images import RealImages, in_random_order, training_images
from diffx.metrics.reference import (
    OWN,
    Reference,
    computed_reference,
    find_reference,
    load_reference,
    reference_images,
)
from diffx.processes.gather import total
from diffx.store.cache import entry, home
from diffx.store.digest import digest

if TYPE_CHECKING:
    from diffx.data import Data

BATCH = 64
ORDER = ("fid", "sfid", "is", "precision", "recall", "kid")
INCEPTION = {"name": "inception", "family": "inception", "training": "supervised"}


class ADMMetrics:
    """Called with batches of uint8 samples (b, 1 or 3, H, W): fid_N, sfid_N, is_N, precision_N, recall_N, kid_N, and
    with DINOv2 fd_NAME_N and kdd_NAME_N, where NAME is the model.

    N is the number of samples over all ranks. Rank r has to be given samples r, r + world, ... in this order, since the
    Inception Score depends on it. What the reference cannot give is left out: sfid without mu_s and sigma_s, precision,
    recall and kid without images. Nothing is downloaded but DINOv2, where there is a network.

    `metrics` are torchmetrics, updated with images one batch after the other: other training code can hold them.

    Args:
        data: whose training images are the reference "own" and the floor.
        reference: a file, a name in the references folder, or "own".
        weights: the file of FID's Inception; None looks in the usual places.
        dinov2: the encoder of the second feature space; None goes without.
        device: where the networks run.

    Raises:
        DiffxError: weights or reference are not to be found, are of something else, or lack the images for DINOv2.
    """

    def __init__(
        self,
        data: "Data | None",
        reference: str,
        weights: str | None = None,
        dinov2: str | None = None,
        device: torch.device | str = "cpu",
    ) -> None:
        self.device, self._data = torch.device(device), data
        network, sha256 = load_inception(weights)
        network = network.to(self.device)
        # Both networks before any statistics, which take long.
        second = None if dinov2 is None else (DINOv2(dinov2, self.device), _images(reference, data))
        self._inception = Once(lambda images: network(images.to(self.device)))
        self._reference = load_reference(reference, data, self._inception, sha256)
        self.identity = f"adm {self._reference.identity} inception {sha256}"
        self.networks = [INCEPTION]
        self._second = None if second is None else self._in_dinov2(*second)
        self.metrics = self._collection()

    @staticmethod
    def look_for(data: "Data | None", reference: str, weights: str | None = None, dinov2: str | None = None) -> None:
        """Raises DiffxError where the networks' weights or the reference are not here; loads and computes nothing."""
        if weights != RANDOM:
            find_weights(weights)
        if dinov2 is not None:
            look_for_dinov2(dinov2)
            _images(reference, data)
        elif reference != OWN:
            find_reference(reference)

    def __call__(self, batches: Iterable[Tensor]) -> dict[str, float]:
        """The values of all ranks' samples; every rank has to call it.

        Raises:
            DiffxError: too few samples for a covariance (2) or for precision and recall (4).
        """
        values, seen = measure(self.metrics, batches, BATCH)
        return _named(values, total(seen))

    def floor(self, count: int) -> dict[str, float]:
        """What `count` training images score, drawn with seed 0; kept in the cache folder, since 50,000 take minutes.
        Empty where the data set has no images at hand. Any rank may call it alone."""
        if self._data is None:
            return {}
        try:
            images = training_images(self._data, in_random_order(len(self._data), count, seed=0), BATCH)
        except DiffxError:
            return {}
        facts = {"floor": self.identity, "data": self._data.identity, "count": count}

        def make(target: os.PathLike[str]) -> dict[str, float]:
            values, seen = measure(self._collection(sync_on_compute=False), images, BATCH)
            open(target, "wb").close()
            return _named(values, seen)

        return entry(home() / "references" / f"floor-{digest(facts)}", facts, make)

    def _in_dinov2(self, network: DINOv2, images: RealImages) -> "Space":
        """The second feature space, with real images in it."""
        name, spec = network.name, network.spec
        known = computed_reference(images, lambda part: (network(part),), name, network.identity)
        self.identity += f" {network.identity} {known.identity}"
        self.networks = [*self.networks, {"name": name, "family": spec.family, "training": spec.training}]
        return Space(name, Once(network), known)

    def _collection(self, **settings: Any) -> MetricCollection:
        """Fresh metrics, in any order. settings: torchmetrics' own."""
        seen, known = self._inception, self._reference
        metrics: dict[str, Metric] = {"fid": FrechetDistance(lambda x: seen(x).pool, known.pool, **settings)}
        if known.spatial is not None:
            metrics["sfid"] = FrechetDistance(lambda x: seen(x).spatial, known.spatial, **settings)
        metrics["is"] = InceptionScore(lambda x: seen(x).logits, **settings)
        if known.features is not None:
            metrics["precision"] = Precision(lambda x: seen(x).pool, known.features, **settings)
            metrics["recall"] = Recall(lambda x: seen(x).pool, known.features, **settings)
            metrics["kid"] = KernelDistance(lambda x: seen(x).pool, known.features, **settings)
        if self._second is not None:
            name, network, known = self._second
            assert known.features is not None
            metrics[f"fd_{name}"] = FrechetDistance(network, known.pool, **settings)
            metrics[f"kdd_{name}"] = KernelDistance(network, known.features, **settings)
        return MetricCollection(dict(metrics), compute_groups=False).to(self.device)


class Space(NamedTuple):
    """A feature space: its encoder's name, the network, and real images seen through it."""

    name: str
    network: Once
    reference: Reference


def _images(reference: str, data: "Data | None") -> RealImages:
    """The images of a reference, for a network whose statistics no file has."""
    try:
        return reference_images(reference, data)
    except DiffxError as error:
        raise DiffxError(f"{error} Or measure without DINOv2: type eval.metrics.dinov2=null.") from error


def _named(values: dict[str, float], count: int) -> dict[str, float]:
    """The values with their number of samples, in the order in which papers print them."""
    order = [name for name in ORDER if name in values] + [name for name in values if name not in ORDER]
    return {f"{name}_{sample_count(count)}": values[name] for name in order}
