"""Immiscible diffusion: each sample is noised with noise that is near to it (Li et al. 2024, arXiv 2406.12303)."""

import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from diffx.errors import DiffxError
from diffx.plugin import Plugin


class Immiscible(Plugin):
    """Chooses the noise of each sample by its distance to it; adds no loss.

    candidates: null, the noise drawn for the batch of a rank is dealt out anew so that the sum of all distances is
    least (the first paper's assignment): what is drawn stays Gaussian. k: each sample takes the nearest of k draws of
    its own (Li et al. 2025, arXiv 2505.18521), which needs no partner and no wait for the device, and is not Gaussian
    any more. Distances are Euclidean, over the whole state, in float32; the released code rounds them to float16.
    """

    across_samples = True

    def __init__(self, candidates: int | None = None) -> None:
        super().__init__()
        if candidates is not None and candidates < 2:
            raise DiffxError(
                f"plugins.immiscible.candidates={candidates} leaves nothing to choose; type a number of at least 2, or "
                "null to deal out the noise of the batch."
            )
        self.candidates = candidates

    def couple(self, x: Tensor, noise: Tensor, rng: torch.Generator) -> Tensor:
        if self.candidates is None:
            return noise[assign(x, noise)]
        nearest, least = noise, square_distances(x, noise)
        for _ in range(self.candidates - 1):  # one at a time: k draws at once would be k times the memory
            other = torch.randn(x.shape, generator=rng, device=x.device, dtype=x.dtype)
            distance = square_distances(x, other)
            nearer = distance < least
            nearest = torch.where(nearer.view(-1, *[1] * (x.ndim - 1)), other, nearest)
            least = torch.where(nearer, distance, least)
        return nearest


def square_distances(x: Tensor, noise: Tensor) -> Tensor:
    """Of each sample to its own noise, (B,)."""
    return (x - noise).float().square().flatten(1).sum(1)


def assign(x: Tensor, noise: Tensor) -> Tensor:
    """For each sample (B,) the place of the noise that it is given, by the assignment with the least sum of distances.
    It is found on the CPU, for which a GPU is waited for."""
    distances = torch.cdist(x.flatten(1).float(), noise.flatten(1).float())
    _, places = linear_sum_assignment(distances.cpu().numpy())
    return torch.as_tensor(places, device=x.device)
