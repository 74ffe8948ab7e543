"""The metrics of the embedded data: Fréchet distances in two small networks, and the distance to the nearest image."""

import zlib
from collections.abc import Iterable

import torch
from torch import Tensor

from diffx import embedded
from diffx.data import LabelledReference
from diffx.metrics.frechet import Moments, frechet_distance
from diffx.metrics.nearest import nearest_distance

COMPARED = 2048  # training images that a sample's nearest one is looked for among


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
        self._training = data.batch(torch.arange(min(COMPARED, len(data))))["image"]
        self._reference = {name: Moments(embedded.FEATURE_DIM) for name in self._networks}
        for images in self._held_out.split(256):
            self._add(self._reference, images)

    def __call__(self, batches: Iterable[Tensor]) -> dict[str, float]:
        moments = {name: Moments(embedded.FEATURE_DIM) for name in self._networks}
        nearest = Moments(1)
        for images in batches:
            self._add(moments, images)
            nearest.update(nearest_distance(images, self._training)[:, None])
        for sums in (*moments.values(), nearest):
            sums.all_reduce()
        count = sample_count(nearest.n)
        distances = {
            f"fd_embedded_{name}_{count}": frechet_distance(sums, self._reference[name])
            for name, sums in moments.items()
        }
        return distances | {"nearest_train": nearest.mean.item()}

    def floor(self, count: int) -> dict[str, float]:
        """What real images score: `count` training images against the held-out ones (with repeats where there are
        fewer), and for nearest_train the held-out images themselves."""
        chosen = torch.arange(count) % len(self._training)
        values = self(self._training[chosen].split(256))
        return values | {"nearest_train": nearest_distance(self._held_out[:1000], self._training).mean().item()}

    @torch.no_grad()
    def _add(self, moments: dict[str, Moments], images: Tensor) -> None:
        for name, sums in moments.items():
            sums.update(self._networks[name](images))


def sample_count(n: int) -> str:
    """1000 -> "1k", 2048 -> "2048": the suffix of a metric's name."""
    return f"{n // 1000}k" if n and n % 1000 == 0 else str(n)


def checksum(weights: Iterable[Tensor]) -> str:
    """CRC-32 of tensors: which networks these are, since one thread more can train slightly others."""
    value = 0
    for tensor in weights:
        value = zlib.crc32(tensor.contiguous().numpy().tobytes(), value)
    return f"{value:08x}"
