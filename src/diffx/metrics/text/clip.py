"""CLIP score, whether samples fit their prompts, and CMMD, how far they are from real images."""

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torchmetrics import MetricCollection

from diffx import ranks
from diffx.data.prompts import prompts_digest, prompts_of
from diffx.errors import DiffxError
from diffx.features.clip import CLIP
from diffx.features.exact import exact_float32
from diffx.metrics.image_metric import ImageMetric, KeptFeatures, Once
from diffx.metrics.measure import measure, sample_count
from diffx.metrics.real_images import in_random_order, training_images
from diffx.processes.gather import all_reduced, total

if TYPE_CHECKING:
    from diffx.data import Data

BATCH, REAL, CHUNK = 64, 10_000, 1024
SCORE, DISTANCE = "clip_score", "cmmd"
BANDWIDTH, SCALE = 10.0, 1000.0


class CLIPMetrics:
    """Called with batches of uint8 samples (b, 1 or 3, H, W): clip_score, where the data has prompts, and cmmd_N,
    where it has images.

    Rank r has to be given samples r, r + world, ... in this order; sample i is of prompt i modulo their number.

    Args:
        data: whose training images CMMD compares with, the first 10,000 of a fixed random order, and whose prompts.
        clip: the folder of a CLIP; CMMD is defined in that of openai/clip-vit-large-patch14-336.
    """

    def __init__(self, data: "Data", device: torch.device | str = "cpu", clip: str | None = None) -> None:
        if clip is None:
            raise DiffxError("These metrics need a CLIP; type eval.metrics.clip= and the folder of a download.")
        prompts = prompts_of(data)
        if not prompts and not len(data):
            raise DiffxError(
                f"{data.name} has neither prompts nor images, and these metrics ask for one; type eval.prompts= and "
                "a file of prompts where text conditions, or --data and a data set that is prepared."
            )
        self._data, self._clip, self.device = data, CLIP(clip, device), torch.device(device)
        self._prompts = self._clip.text(prompts) if prompts else None
        self._known: Tensor | None = None
        self.identity = f"clip {self._clip.identity} {prompts_digest(prompts)}"
        self.networks = ({"name": "clip", "family": "clip", "training": "language-supervised"},)
        self.metrics = self._collection((ranks.rank(), ranks.world()))

    def __call__(self, batches: Iterable[Tensor]) -> dict[str, float]:
        """The values of all ranks' samples; every rank has to call it."""
        values, seen = measure(self.metrics, batches, BATCH)
        return _named(values, total(seen))

    def floor(self, count: int) -> dict[str, float]:
        """What other training images score against the reference ones. Any rank may call it alone."""
        metrics = self._collection((0, 1), sync_on_compute=False)
        order = in_random_order(len(self._data), min(2 * REAL, len(self._data)), seed=1)[-count:]
        only = MetricCollection({DISTANCE: metrics[DISTANCE]}, compute_groups=False)
        values, seen = measure(only, training_images(self._data, order, BATCH), BATCH)
        return _named(values, seen)

    def _collection(self, places: tuple[int, int], **settings: Any) -> MetricCollection:
        network = Once(self._clip)
        found: dict[str, Any] = {DISTANCE: CMMD(network, self._reference, **settings)} if len(self._data) else {}
        if self._prompts is not None:
            found = {SCORE: CLIPScore(network, self._prompts, places, **settings), **found}
        return MetricCollection(found, compute_groups=False).to(self.device)

    def _reference(self) -> Tensor:
        """Of the real images, made when first asked for."""
        if self._known is None:
            order = in_random_order(len(self._data), min(REAL, len(self._data)), seed=1)
            self._known = torch.cat([self._clip(images) for images in training_images(self._data, order, BATCH)])
        return self._known


class CLIPScore(ImageMetric):
    """The mean over images of 100 · max(cos(image, prompt), 0), as torchmetrics has it; Hessel et al. 2021 (arXiv
    2104.08718) have the factor 2.5.

    Args:
        network: images to embeddings of length one (B, P). prompts: theirs (N, P), in turn for the images.
        places: the number of the first image here, and how many lie between two: rank and world.
    """

    higher_is_better = True
    n: Tensor
    sum: Tensor

    def __init__(
        self, network: Callable[[Tensor], Tensor], prompts: Tensor, places: tuple[int, int] = (0, 1), **settings: Any
    ) -> None:
        super().__init__(network, dist_sync_fn=all_reduced, **settings)
        self._prompts, self._places, self._seen = prompts, places, 0
        self.add_state("n", torch.zeros((), dtype=torch.int64), "sum")
        self.add_state("sum", torch.zeros((), dtype=torch.float64), "sum")

    def update(self, images: Tensor) -> None:
        """Add the next images."""
        first, step = self._places
        seen = self.features(images)
        place = first + step * (self._seen + torch.arange(len(seen), device=seen.device))
        cosine = (seen * self._prompts.to(seen)[place % len(self._prompts)]).sum(1)
        self.n, self._seen = self.n + len(seen), self._seen + len(seen)
        self.sum = self.sum + 100 * cosine.clamp(min=0).to(self.sum).sum()

    def compute(self) -> Tensor:
        """() float64."""
        return self.sum / self.n

    def reset(self) -> None:
        self._seen = 0
        super().reset()


class CMMD(KeptFeatures):
    """CMMD (Jayasumana et al. 2024, arXiv 2401.09603) of images to real ones; see cmmd()."""

    higher_is_better = False

    def compute(self) -> Tensor:
        """() float64."""
        return torch.tensor(cmmd(self.rows(), self._reference()), dtype=torch.float64)


def cmmd(samples: Tensor, reference: Tensor) -> float:
    """1000 · MMD² of embeddings of length one (N, P) and (M, P) under the kernel exp(−|x − y|² / (2 · 10²)).

    As google-research/cmmd has it, the means are over all pairs, a point with itself included: the distance of a set to
    itself is 0, and that of few images is larger than that of many.
    """
    reference = reference.to(samples)
    with exact_float32(samples.device):
        within = _mean(samples, samples) + _mean(reference, reference)
        return SCALE * (within - 2 * _mean(samples, reference))


def _mean(x: Tensor, y: Tensor) -> float:
    x, y = x.double(), y.double()
    squares = y.square().sum(1)
    parts = []
    for part in x.split(CHUNK):
        distance = part.square().sum(1)[:, None] + squares - 2 * part @ y.T
        parts.append(torch.exp(-distance / (2 * BANDWIDTH**2)).sum())
    return (torch.stack(parts).sum() / (len(x) * len(y))).item()


def _named(values: dict[str, float], count: int) -> dict[str, float]:
    score = {SCORE: values[SCORE]} if SCORE in values else {}
    distance = {f"{DISTANCE}_{sample_count(count)}": values[DISTANCE]} if DISTANCE in values else {}
    return {**score, **distance}
