"""The metrics of the embedded captions: those of embedded data, and whether samples show what was asked for."""

import math
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torchmetrics import MetricCollection

from diffx import ranks
from diffx.data.captions.alignment import WHAT, agreement, asked_by
from diffx.data.captions.language import Asked
from diffx.data.prompts import prompts_digest, prompts_of
from diffx.embedded.captions.attributes import attribute_network
from diffx.metrics.embedded import BATCH, EmbeddedMetrics, Exact, named
from diffx.metrics.image_metric import ImageMetric, Once
from diffx.metrics.measure import measure
from diffx.processes.gather import all_reduced, total
from diffx.store.digest import checksum

if TYPE_CHECKING:
    from diffx.embedded.captions import Captions

PREFIX = "align_"


class CaptionMetrics:
    """Called with batches of uint8 samples (b, 3, H, W): fd_embedded_sup_N, fd_embedded_ssl_N, nearest_train, and
    align_shape, align_colour, align_relation, align_all and align_all_unseen (diffx.data.captions.alignment), shares of
    what the prompts ask for as a small network reads it off the samples; more is better.

    Rank r has to be given samples r, r + world, ... in this order; sample i is of prompt i modulo their number. An
    alignment that no sample's prompt asks about is left out. `metrics` are torchmetrics.
    """

    def __init__(self, data: "Captions", device: torch.device | str = "cpu") -> None:
        network = attribute_network(data.images)
        self._distances = EmbeddedMetrics(data.images, device, network.features)
        self._own = data.images.prompts() == prompts_of(data)
        self._asked = [asked_by(prompt) for prompt in data.prompts]
        weights = checksum(network.state_dict().values())
        prompts = prompts_digest(prompts_of(data))
        self.identity = f"{self._distances.identity} align {weights} {prompts}"
        reader = {"name": "align", "family": "diffx-embedded-attributes", "training": "supervised"}
        self.networks = (*self._distances.networks, reader)
        self.device = torch.device(device)
        self._read = Exact(network.to(device), self.device)
        self._held_out = data.reference()
        both = [*self._distances.metrics.items(), *self._alignments((ranks.rank(), ranks.world())).items()]
        self.metrics = MetricCollection(dict(both), compute_groups=False).to(self.device)

    def __call__(self, batches: Iterable[Tensor]) -> dict[str, float]:
        """The values of all ranks' samples; every rank has to call it.

        Raises:
            DiffxError: fewer than two samples in all, or features that are not finite.
        """
        values, seen = measure(self.metrics, batches, BATCH)
        return named(values, total(seen)) | _asked_about(values)

    def floor(self, count: int) -> dict[str, float]:
        """What real pictures score: distances as for EmbeddedMetrics, and the alignment of the pictures that the
        prompts are captions of, which is how much the network that reads them can tell. Any rank may call it alone."""
        found = self._distances.floor(count)
        if not self._own:
            return found
        alone = MetricCollection(dict(self._alignments((0, 1), sync_on_compute=False)), compute_groups=False)
        values, _ = measure(alone.to(self.device), [self._held_out[: len(self._asked)]], BATCH)
        return found | _asked_about(values)

    def _alignments(self, places: tuple[int, int], **settings: Any) -> dict[str, "Alignment"]:
        read = Once(lambda images: self._read(images).float())
        return {f"{PREFIX}{what}": Alignment(read, self._asked, what, places, **settings) for what in WHAT}


class Alignment(ImageMetric):
    """The share of what prompts ask for that is seen in the images, of one kind (`what`, of WHAT).

    Args:
        read: images to what is seen in them, as AttributeNetwork has it.
        asked: by prompt, in turn for the images.
        places: the number of the first image here, and how many lie between two: rank and world.
    """

    higher_is_better = True
    right: Tensor
    wanted: Tensor

    def __init__(
        self,
        read: Callable[[Tensor], Tensor],
        asked: Sequence[Asked],
        what: str,
        places: tuple[int, int] = (0, 1),
        **settings: Any,
    ) -> None:
        super().__init__(read, dist_sync_fn=all_reduced, **settings)
        self._asked, self._what, self._places, self._seen = asked, what, places, 0
        self.add_state("right", torch.zeros((), dtype=torch.float64), "sum")
        self.add_state("wanted", torch.zeros((), dtype=torch.float64), "sum")

    def update(self, images: Tensor) -> None:
        """Add the next images."""
        first, step = self._places
        for seen in self.features(images).long().cpu():
            wanted = self._asked[(first + step * self._seen) % len(self._asked)]
            objects = seen[2:].view(-1, 3)[: int(seen[0])].numpy()
            right, of = agreement(wanted, int(seen[1]), objects)[self._what]
            self.right, self.wanted, self._seen = self.right + right, self.wanted + of, self._seen + 1

    def compute(self) -> Tensor:
        """() float64; NaN where nothing of the kind was asked for."""
        return self.right / self.wanted

    def reset(self) -> None:
        self._seen = 0
        super().reset()


def _asked_about(values: dict[str, float]) -> dict[str, float]:
    return {name: value for name, value in values.items() if name.startswith(PREFIX) and not math.isnan(value)}
