"""Rows of all processes."""

import torch
import torch.distributed as dist
from torch import Tensor


def all_gather_rows(x: Tensor) -> Tensor:
    """x (N_r, D) of every rank, one below the other, on each of them. The numbers of rows may differ."""
    if not dist.is_initialized():
        return x
    device = torch.device("cuda") if dist.get_backend() == "nccl" else torch.device("cpu")
    count = torch.tensor([len(x)], device=device)
    counts = [torch.zeros_like(count) for _ in range(dist.get_world_size())]
    dist.all_gather(counts, count)
    padded = torch.zeros(max(int(c) for c in counts), x.shape[1], dtype=x.dtype, device=device)
    padded[: len(x)] = x.to(device)
    parts = [torch.empty_like(padded) for _ in counts]
    dist.all_gather(parts, padded)
    return torch.cat([part[: int(c)] for part, c in zip(parts, counts, strict=True)]).to(x.device)
