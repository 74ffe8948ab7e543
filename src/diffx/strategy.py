"""How Lightning spreads a run over processes that diffx has started: DDP or FSDP2."""

import os
from typing import Any

import torch
from lightning.pytorch.plugins.environments import ClusterEnvironment
from lightning.pytorch.strategies import DDPStrategy, ModelParallelStrategy, Strategy

from diffx import ranks


def make_strategy(name: str, device: torch.device) -> Strategy | str:
    """Lightning's strategy for "ddp" or "fsdp"; one process needs neither."""
    if ranks.world() == 1:
        return "auto"
    backend = "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo"  # metrics sum on the CPU too
    if name == "fsdp":
        return ModelParallelStrategy(
            data_parallel_size=ranks.world(),
            tensor_parallel_size=1,
            save_distributed_checkpoint=False,
            process_group_backend=backend,
        )
    # Buffers are tables and weights of losses, alike on all ranks.
    return DDPStrategy(process_group_backend=backend, broadcast_buffers=False, gradient_as_bucket_view=True)


class Ranks(ClusterEnvironment):
    """The processes as RANK, LOCAL_RANK, WORLD_SIZE and MASTER_* number them. Without this Lightning guesses, and
    inside a Slurm job it takes a single process for one of many."""

    creates_processes_externally = True

    @property
    def main_address(self) -> str:
        return os.environ.get("MASTER_ADDR", "127.0.0.1")

    @property
    def main_port(self) -> int:
        return int(os.environ.get("MASTER_PORT", 0))

    @staticmethod
    def detect() -> bool:
        return True

    def world_size(self) -> int:
        return ranks.world()

    def set_world_size(self, size: int) -> None:
        """It is what the environment says."""

    def global_rank(self) -> int:
        return ranks.rank()

    def set_global_rank(self, rank: int) -> None:
        """It is what the environment says."""

    def local_rank(self) -> int:
        return int(os.environ.get("LOCAL_RANK", 0))

    def node_rank(self) -> int:
        return (ranks.rank() - self.local_rank()) // int(os.environ.get("LOCAL_WORLD_SIZE", 1))

    def validate_settings(self, num_devices: int, num_nodes: int) -> None:
        """Checked where the processes are started."""

    def teardown(self) -> Any:
        """Nothing was set up."""
