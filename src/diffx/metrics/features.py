"""The metrics of the embedded data: Fréchet distances in two small networks, and the distance to the nearest image."""

import zlib
from collections.abc import Iterable

import torch
from torch import Tensor

from diffx import embedded
from diffx.data import LabelledReference
from diffx.data.batches import permutation
from diffx.metrics.frechet import Moments, frechet_distance
from diffx.metrics.nearest import nearest_distance

BATCH = 256
COMPARED = 65_536  # training images, at most, that a sample's nearest one is looked for among


class EmbeddedMetrics:
    """Called with batches of uint8 samples (b, C, H, W): fd_embedded_sup_N, fd_embedded_ssl_N and nearest_train.

    Fréchet distances between samples and held-out images, in a supervised and in a self-supervised network that diffx
    trained from this data: not FID-50K. N is the number of samples, over all ranks, since the bias of such a distance
    falls like 1/N.
    """

    networks = (
        {"name": "embedded_sup", "family": "diffx-embedded-classifier", "training": "supervised"},
        {"name": "embedded_ssl", "family": "diffx-embedded-restorer", "training": "self-supervised"},
    )

    def __init__(self, data: LabelledReference) -> None:
        self._networks = {"sup": embedded.supervised(data), "ssl": embedded.self_supervised(data)}
        weights = [tensor for network in self._networks.values() for tensor in network.state_dict().values()]
        self.identity = f"embedded {data.identity} {checksum(weights)}"
        self._held_out = data.reference()
        parts = [data.batch(part) for part in torch.arange(min(COMPARED, len(data))).split(BATCH)]
        self._training = torch.cat([part["image"] for part in parts])
        self._mixed = classes_in_turn(torch.cat([part["y"] for part in parts]))
        self._reference = {name: Moments(embedded.FEATURE_DIM) for name in self._networks}
        for images in self._held_out.split(BATCH):
            self._add(self._reference, images)

    def __call__(self, batches: Iterable[Tensor]) -> dict[str, float]:
        """The values of all ranks' samples; every rank has to call it.

        Raises:
            DiffxError: fewer than two samples in all, or features that are not finite.
        """
        moments = {name: Moments(embedded.FEATURE_DIM) for name in self._networks}
        nearest = Moments(1)
        for images in batches:
            self._add(moments, images)
            nearest.update(nearest_distance(images, self._training)[:, None])
        for sums in (*moments.values(), nearest):
            sums.all_reduce()
        return self._distances(moments) | {"nearest_train": nearest.mean.item()}

    def floor(self, count: int) -> dict[str, float]:
        """What real images score: `count` training images, as many of each class as samples have with balanced labels,
        against the held-out ones; for nearest_train the first 1,000 held-out images. Any rank may call it alone."""
        moments = {name: Moments(embedded.FEATURE_DIM) for name in self._networks}
        drawn = self._training[self._mixed[torch.arange(count) % len(self._mixed)]]
        for images in drawn.split(BATCH):
            self._add(moments, images)
        held_out = nearest_distance(self._held_out[:1000], self._training)
        return self._distances(moments) | {"nearest_train": held_out.mean().item()}

    def _distances(self, moments: dict[str, Moments]) -> dict[str, float]:
        return {
            f"fd_embedded_{name}_{sample_count(sums.n)}": frechet_distance(sums, self._reference[name])
            for name, sums in moments.items()
        }

    @torch.no_grad()
    def _add(self, moments: dict[str, Moments], images: Tensor) -> None:
        for name, sums in moments.items():
            sums.update(self._networks[name](images))


def classes_in_turn(labels: Tensor) -> Tensor:
    """A fixed random order of all indices (N,): one image of every class, then another of every class, and so on."""
    order = permutation(len(labels), seed=0, epoch=0)
    earlier = torch.empty_like(order)
    for label in labels.unique():
        same = labels[order] == label
        earlier[same] = torch.arange(int(same.sum()))
    return order[earlier.argsort(stable=True)]


def sample_count(n: int) -> str:
    """1000 -> "1k", 2048 -> "2048": the suffix of a metric's name."""
    return f"{n // 1000}k" if n and n % 1000 == 0 else str(n)


def checksum(weights: Iterable[Tensor]) -> str:
    """CRC-32 of tensors: which networks these are, since one thread more can train slightly others."""
    value = 0
    for tensor in weights:
        value = zlib.crc32(tensor.contiguous().numpy().tobytes(), value)
    return f"{value:08x}"
