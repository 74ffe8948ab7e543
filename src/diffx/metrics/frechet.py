"""The Fréchet distance between two Gaussians, and the moments it is computed from."""

import contextlib
from collections.abc import Iterator
from pathlib import Path

import torch
import torch.distributed as dist
from safetensors.torch import load_file, save_file
from torch import Tensor

from diffx.errors import DiffxError


class Moments:
    """Running first and second moments of feature vectors, in float64.

    Args:
        dim: number of features D.
        device: where the sums are kept; float64 has to be supported there.
    """

    def __init__(self, dim: int, device: torch.device | str = "cpu") -> None:
        self.n = 0
        self.sum = torch.zeros(dim, dtype=torch.float64, device=device)
        self.outer = torch.zeros(dim, dim, dtype=torch.float64, device=device)
        """Sum of outer products, (D, D)."""

    def update(self, features: Tensor) -> None:
        """Add features (B, D).

        Raises:
            DiffxError: another width, or values that are not finite (nothing is added then).
        """
        if features.ndim != 2 or features.shape[1] != len(self.sum):
            raise DiffxError(f"Features of shape {tuple(features.shape)} where (B, {len(self.sum)}) was expected.")
        bad = int((~features.isfinite()).any(dim=1).sum())
        if bad:
            raise DiffxError(
                f"{bad} of {len(features)} feature vectors hold NaN or infinity, so they have no Fréchet distance. "
                "The images they come from are usually the cause: look at the samples."
            )
        features = features.detach().to(self.sum)
        self.n += len(features)
        self.sum += features.sum(dim=0)
        self.outer += features.T @ features

    def merge(self, other: "Moments") -> None:
        """Add the vectors that `other` has seen."""
        self.n += other.n
        self.sum += other.sum.to(self.sum)
        self.outer += other.outer.to(self.outer)

    def all_reduce(self) -> None:
        """Sum over all processes, in place; afterwards every rank holds the moments of all vectors."""
        if not dist.is_initialized():
            return
        # NCCL reduces tensors on a GPU only.
        device = torch.device("cuda") if dist.get_backend() == "nccl" else self.sum.device
        count = torch.tensor([self.n], dtype=torch.float64)
        packed = torch.cat([count.to(device), self.sum.to(device), self.outer.flatten().to(device)])
        dist.all_reduce(packed)
        n, total, outer = packed.to(self.sum.device).split([1, len(self.sum), self.outer.numel()])
        self.n, self.sum, self.outer = int(n), total, outer.view_as(self.outer)

    @property
    def mean(self) -> Tensor:
        """(D,) float64."""
        return self.sum / self.n

    @property
    def cov(self) -> Tensor:
        """Unbiased covariance (D, D), float64.

        Raises:
            DiffxError: fewer than two vectors.
        """
        if self.n < 2:
            raise DiffxError(f"A covariance needs at least 2 images, and there are {self.n}.")
        return (self.outer - torch.outer(self.sum, self.mean)) / (self.n - 1)

    def save(self, path: Path) -> None:
        """Write to a safetensors file."""
        count = torch.tensor(self.n, dtype=torch.int64)
        save_file({"n": count, "sum": self.sum.cpu(), "outer": self.outer.cpu()}, path)

    @classmethod
    def load(cls, path: Path) -> "Moments":
        """Read what `save` wrote."""
        tensors = load_file(path)
        moments = cls(len(tensors["sum"]))
        moments.n, moments.sum, moments.outer = int(tensors["n"]), tensors["sum"], tensors["outer"]
        return moments


def frechet_distance(a: Moments, b: Moments) -> float:
    """Squared Fréchet (2-Wasserstein) distance of the Gaussians with these moments: |μa−μb|² + tr(Σa + Σb − 2(ΣaΣb)^½).

    Equation 6 of Heusel et al. 2017 (arXiv:1706.08500). (ΣaΣb)^½ and (Σa^½ Σb Σa^½)^½ have the same trace, and the
    latter is symmetric, so two eigendecompositions in float64 give it without a complex number or a Schur form.

    With fewer vectors than dimensions a covariance is singular. Nothing breaks: eigenvalues that rounding made negative
    count as zero. But the distance is biased upwards by roughly a constant over the number of vectors, for any number
    of them and strongly for few, so compare only distances at equal numbers.

    Raises:
        DiffxError: fewer than two vectors on a side, or different numbers of features.
    """
    if len(a.sum) != len(b.sum):
        raise DiffxError(f"Moments of {len(a.sum)} and of {len(b.sum)} features do not compare.")
    cov_a, cov_b = a.cov, b.cov.to(a.cov)
    with _one_thread():
        values, vectors = torch.linalg.eigh(cov_a)
        root = (vectors * values.clamp(min=0).sqrt()) @ vectors.T
        product = root @ cov_b @ root
        cross = torch.linalg.eigvalsh((product + product.T) / 2).clamp(min=0).sqrt().sum()
    shift = (a.mean - b.mean.to(a.mean)).square().sum()
    return max(0.0, float(shift + cov_a.trace() + cov_b.trace() - 2 * cross))


@contextlib.contextmanager
def _one_thread() -> Iterator[None]:
    # LAPACK's threads spin while they wait: beside another busy process, 2048 dimensions take minutes instead of 5 s.
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
