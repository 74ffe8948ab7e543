"""How alike two feature spaces arrange the same images."""

import torch
import torch.nn.functional as F
from torch import Tensor

from diffx.errors import DiffxError

NEIGHBOURS = 10
CHUNK = 1024


def cknna(a: Tensor, b: Tensor, k: int = NEIGHBOURS) -> float:
    """Centred kernel nearest-neighbour alignment of features a (N, D) and b (N, E) of the same images, 1 at most.

    Huh et al. 2024 (arXiv 2405.07987, appendix). With K_ij = ⟨a_i, a_j⟩, centred K̄_ij = K_ij − mean_l K_il, L of b
    likewise, and α_ij = 1 where j ≠ i is among the k nearest of i in both spaces:

        Align(K, L) = Σ_ij α_ij K̄_ij L̄_ij        CKNNA = Align(K, L) / √(Align(K, K) Align(L, L))

    Rows are scaled to unit length first, and neighbours are those of the largest inner product, as in the authors'
    code. That code however puts masked kernels through an unbiased HSIC instead of this formula of the paper, so its
    numbers are others.

    Raises:
        DiffxError: no more than k images, or not the same number on both sides.
    """
    if len(a) != len(b) or len(a) <= k:
        raise DiffxError(f"CKNNA needs the same images in both spaces, more than {k}: there are {len(a)} and {len(b)}.")
    a, b = F.normalize(a.double(), dim=1), F.normalize(b.double(), dim=1)
    sums = torch.zeros(3, dtype=torch.float64, device=a.device)
    for start in range(0, len(a), CHUNK):
        rows = torch.arange(start, min(start + CHUNK, len(a)), device=a.device)
        near_a, near_b, (own_a, other_b), (_, own_b) = _neighbours(a, b, rows, k)
        common = (near_a[:, :, None] == near_b[:, None, :]).any(2)
        sums += torch.stack([(own_a * other_b)[common].sum(), own_a.square().sum(), own_b.square().sum()])
    both, of_a, of_b = sums.tolist()
    return both / (of_a * of_b) ** 0.5


def _neighbours(
    a: Tensor, b: Tensor, rows: Tensor, k: int
) -> tuple[Tensor, Tensor, tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
    """The k nearest of each row in a and in b, (R, k) each, and the centred kernels (of a, of b) at either."""
    kernels = [x[rows] @ x.T for x in (a, b)]
    centred = [kernel - kernel.mean(1, keepdim=True) for kernel in kernels]
    near = []
    for kernel in kernels:
        kernel[torch.arange(len(rows)), rows] = -torch.inf
        near.append(kernel.topk(k, dim=1).indices)
    at_a, at_b = ((centred[0].gather(1, places), centred[1].gather(1, places)) for places in near)
    return near[0], near[1], at_a, at_b
