"""The Fréchet distance between two Gaussians, and the moments it is computed from."""

import contextlib
import math
from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor

from diffx.errors import DiffxError
from diffx.metrics.image_metric import ImageMetric, Network
from diffx.processes.gather import all_reduced


class Gaussian(NamedTuple):
    """mean (D,) and unbiased covariance cov (D, D), float64."""

    mean: Tensor
    cov: Tensor


class Moments(ImageMetric):
    """Mean and covariance of the features of images, summed in float64 over batches and processes.

    Args:
        network: images to features (B, D).
        dim: number of features D.
    """

    n: Tensor
    sum: Tensor
    outer: Tensor
    """Sum of outer products, (D, D)."""

    def __init__(self, network: Network, dim: int, **settings: Any) -> None:
        super().__init__(network, dist_sync_fn=all_reduced, **settings)
        self.add_state("n", torch.zeros((), dtype=torch.int64), "sum")
        self.add_state("sum", torch.zeros(dim, dtype=torch.float64), "sum")
        self.add_state("outer", torch.zeros(dim, dim, dtype=torch.float64), "sum")

    def update(self, images: Tensor) -> None:
        """Add images.

        Raises:
            DiffxError: features of another width, or that are not finite; nothing is added then.
        """
        features = self.features(images)
        if features.ndim != 2 or features.shape[1] != len(self.sum):
            raise DiffxError(f"Features of shape {tuple(features.shape)} where (B, {len(self.sum)}) was expected.")
        features = features.to(self.sum)
        self.n = self.n + len(features)
        self.sum = self.sum + features.sum(dim=0)
        self.outer = self.outer + features.T @ features

    def compute(self) -> Any:
        """The Gaussian with these moments.

        Raises:
            DiffxError: fewer than two images.
        """
        return gaussian_of_sums(int(self.n), self.sum, self.outer)


def gaussian_of_sums(n: int, total: Tensor, outer: Tensor) -> Gaussian:
    """The Gaussian of n vectors, from their sum (D,) and the sum of their outer products (D, D).

    Raises:
        DiffxError: fewer than two.
    """
    if n < 2:
        raise DiffxError(f"A covariance needs at least 2 images, and there are {n}.")
    mean = total / n
    return Gaussian(mean, (outer - torch.outer(total, mean)) / (n - 1))


class FrechetDistance(Moments):
    """The Fréchet distance of images to a reference: FID in Inception's features, FD-DINOv2 in DINOv2's.

    >>> fid = FrechetDistance(lambda images: inception(images).pool, reference)
    >>> fid.update(images)  # as often as there are batches, on any number of processes
    >>> fid.compute()

    Args:
        network: images to features (B, D).
        reference: moments of real images in the same features.
    """

    higher_is_better = False

    def __init__(self, network: Network, reference: Gaussian, **settings: Any) -> None:
        super().__init__(network, len(reference.mean), **settings)
        self._reference = reference

    def compute(self) -> Tensor:
        """() float64. Raises DiffxError for fewer than two images."""
        return torch.tensor(frechet_distance(super().compute(), self._reference), dtype=torch.float64)


def frechet_distance(a: Gaussian, b: Gaussian) -> float:
    """Squared Fréchet (2-Wasserstein) distance of samples' Gaussian a to a reference's b:
    |μa−μb|² + tr(Σa + Σb − 2(ΣaΣb)^½).

    Equation 6 of Heusel et al. 2017 (arXiv:1706.08500). (ΣaΣb)^½ and (Σa^½ Σb Σa^½)^½ have the same trace, and the
    latter is symmetric, so two eigendecompositions in float64 give it without a complex number or a Schur form.

    With fewer vectors than dimensions a covariance is singular. Nothing breaks: eigenvalues that rounding made negative
    count as zero. But the distance is biased upwards by roughly a constant over the number of vectors, for any number
    of them and strongly for few, so compare only distances at equal numbers.

    Raises:
        DiffxError: different numbers of features, or moments that are not finite (the sentence says whose).
    """
    if len(a.mean) != len(b.mean):
        raise DiffxError(f"Moments of {len(a.mean)} and of {len(b.mean)} features do not compare.")
    for whose, moments in (("the samples", a), ("the reference", b)):
        if not (moments.mean.isfinite().all() and moments.cov.isfinite().all()):
            raise DiffxError(f"The moments of {whose} hold NaN or infinity: no distance can be taken to or from them.")
    cov_a, cov_b = a.cov, b.cov.to(a.cov)
    with _one_thread():
        values, vectors = torch.linalg.eigh(cov_a)
        root = (vectors * values.clamp(min=0).sqrt()) @ vectors.T
        product = root @ cov_b @ root
        cross = torch.linalg.eigvalsh((product + product.T) / 2).clamp(min=0).sqrt().sum()
    shift = (a.mean - b.mean.to(a.mean)).square().sum()
    distance = float(shift + cov_a.trace() + cov_b.trace() - 2 * cross)
    if not math.isfinite(distance):  # max(0.0, nan) would be 0, a perfect score
        raise DiffxError(f"The distance of the samples to the reference is {distance}: their moments are too large.")
    return max(0.0, distance)


@contextlib.contextmanager
def _one_thread() -> Iterator[None]:
    # LAPACK's threads spin while they wait: beside another busy process, 2048 dimensions take minutes instead of 5 s.
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
