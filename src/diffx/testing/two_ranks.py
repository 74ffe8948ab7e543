"""The training step on two processes."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.distributed
import torch.multiprocessing
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils._pytree import tree_map

from diffx.objective import Interpolant
from diffx.planner import Plan
from diffx.plugin import Plugin
from diffx.step import Draws, losses


class Step(nn.Module):
    """The training step as a module, which is what DistributedDataParallel wraps."""

    def __init__(self, backbone: Any, plugins: Mapping[str, Plugin], plan: Plan) -> None:
        super().__init__()
        self.backbone, self.plugins, self.plan = backbone, nn.ModuleDict(plugins), plan

    def forward(self, draws: Draws) -> Tensor:
        plugins: Any = dict(self.plugins.items())
        return losses(self.backbone, self.plan, plugins, Interpolant(), draws)["total"]


def train_on_rank(rank: int, step: Step, draws: Sequence[Draws], folder: str) -> None:
    """One of two processes: its own draws, forward and backward through DistributedDataParallel, twice, since
    a parameter without gradient shows in the second step."""
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2)
    wrapped = DistributedDataParallel(step)
    for _ in range(2):
        step.zero_grad()
        wrapped(draws[rank]).backward()
    if rank == 0:
        torch.save({k: p.grad for k, p in step.named_parameters() if p.grad is not None}, f"{folder}/gradients.pt")
    torch.distributed.barrier()  # a process that leaves early can abort the other
    torch.distributed.destroy_process_group()


def shard(draws: Draws, rank: int, ranks: int) -> Draws:
    """The samples of one rank: every tensor that has a row for each sample, cut."""
    size = len(draws.x) // ranks

    def cut(value: Tensor) -> Tensor:
        has_rows = isinstance(value, Tensor) and value.ndim and len(value) == len(draws.x)
        return value[rank * size : (rank + 1) * size].clone() if has_rows else value

    cut_draws: Draws = tree_map(cut, draws)
    return cut_draws
