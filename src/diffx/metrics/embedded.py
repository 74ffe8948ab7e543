"""The metrics of the embedded data: Fréchet distances in two small networks, and the distance to the nearest image."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torchmetrics import Metric, MetricCollection

from diffx.data import LabelledReference
from diffx.data.batches import permutation
from diffx.embedded import networks as embedded
from diffx.embedded.architecture import FeatureNetwork
from diffx.features.exact import exact_float32
from diffx.metrics.frechet import FrechetDistance, Gaussian, Moments
from diffx.metrics.measure import measure, sample_count
from diffx.metrics.nearest import NearestTraining
from diffx.processes.gather import total
from diffx.store.digest import checksum

BATCH = 256
DISTANCES, NEAREST = ("fd_embedded_sup", "fd_embedded_ssl"), "nearest_train"
COMPARED = 65_536  # training images, at most, that a sample's nearest one is looked for among


class EmbeddedMetrics:
    """Called with batches of uint8 samples (b, C, H, W): fd_embedded_sup_N, fd_embedded_ssl_N and nearest_train.

    Fréchet distances between samples and held-out images, in a supervised and in a self-supervised network that diffx
    trained from this data: not FID-50K. N is the number of samples, over all ranks, since the bias of such a distance
    falls like 1/N. `metrics` are torchmetrics.
    """

    networks = (
        {"name": "embedded_sup", "family": "diffx-embedded-classifier", "training": "supervised"},
        {"name": "embedded_ssl", "family": "diffx-embedded-restorer", "training": "self-supervised"},
    )

    def __init__(
        self,
        data: LabelledReference,
        device: torch.device | str = "cpu",
        supervised: FeatureNetwork | None = None,
    ) -> None:
        """supervised: the network of the first distance; None: the one that tells the classes of `data` apart."""
        data = getattr(data, "images", data)  # of latents and of captions, the images
        networks = {
            "embedded_sup": supervised or embedded.supervised(data),
            "embedded_ssl": embedded.self_supervised(data),
        }
        weights = [tensor for network in networks.values() for tensor in network.state_dict().values()]
        self.identity = f"embedded {data.identity} {checksum(weights)}"
        self.device = torch.device(device)
        self._networks = {name: Exact(network.to(device), self.device) for name, network in networks.items()}
        self._held_out = data.reference()
        parts = [data.batch(part) for part in torch.arange(min(COMPARED, len(data))).split(BATCH)]
        self._training = torch.cat([part["image"] for part in parts]).to(device)
        self._mixed = classes_in_turn(torch.cat([part["y"] for part in parts]))
        self._reference = {name: self._moments(network) for name, network in self._networks.items()}
        self.metrics = self._collection(self._distances() | self._nearest())

    def __call__(self, batches: Iterable[Tensor]) -> dict[str, float]:
        """The values of all ranks' samples; every rank has to call it.

        Raises:
            DiffxError: fewer than two samples in all, or features that are not finite.
        """
        values, seen = measure(self.metrics, batches, BATCH)
        return named(values, total(seen))

    def floor(self, count: int) -> dict[str, float]:
        """What real images score: `count` training images, as many of each class as samples have with balanced labels,
        against the held-out ones; for nearest_train the first 1,000 held-out images. Any rank may call it alone."""
        drawn = self._training[self._mixed[torch.arange(count) % len(self._mixed)]]
        values, _ = measure(self._collection(self._distances(sync_on_compute=False)), [drawn], BATCH)
        nearest = self._collection(self._nearest(sync_on_compute=False))
        held_out, _ = measure(nearest, [self._held_out[:1000]], BATCH)
        return named(values, count) | held_out

    def _collection(self, metrics: dict[str, Metric]) -> MetricCollection:
        return MetricCollection(dict(metrics), compute_groups=False).to(self.device)

    def _distances(self, **settings: Any) -> dict[str, Metric]:
        """Fresh metrics. settings: torchmetrics' own."""
        spaces = self._networks.items()
        return {f"fd_{name}": FrechetDistance(network, self._reference[name], **settings) for name, network in spaces}

    def _nearest(self, **settings: Any) -> dict[str, Metric]:
        return {NEAREST: NearestTraining(self._training, **settings)}

    def _moments(self, network: "Exact") -> Gaussian:
        moments = Moments(network, embedded.FEATURE_DIM, sync_on_compute=False).to(self.device)
        for images in self._held_out.split(BATCH):
            moments.update(images)
        return moments.compute()


@dataclass(frozen=True)
class Exact:
    """A network on its device, in float32 that is float32."""

    network: torch.nn.Module
    device: torch.device

    def __call__(self, images: Tensor) -> Tensor:
        with exact_float32(self.device):
            return self.network(images.to(self.device))


def named(values: dict[str, float], count: int) -> dict[str, float]:
    """Distances with their number of samples, and last what does not depend on it."""
    counted = {f"{name}_{sample_count(count)}": values[name] for name in DISTANCES}
    return counted | {NEAREST: values[NEAREST]} if NEAREST in values else counted


def classes_in_turn(labels: Tensor) -> Tensor:
    """A fixed random order of all indices (N,): one image of every class, then another of every class, and so on."""
    order = permutation(len(labels), seed=0, epoch=0)
    earlier = torch.empty_like(order)
    for label in labels.unique():
        same = labels[order] == label
        earlier[same] = torch.arange(int(same.sum()))
    return order[earlier.argsort(stable=True)]
