"""The Lightning trainer of a run, and how it spreads over the processes that diffx has started: DDP or FSDP2."""

import logging
import math
import os
import warnings
from collections.abc import Sequence
from typing import Any

import lightning as L
import torch
from lightning.pytorch.plugins.environments import ClusterEnvironment
from lightning.pytorch.strategies import DDPStrategy, ModelParallelStrategy, Strategy
from torch import Tensor, nn
from torch.distributed.checkpoint.state_dict import StateDictOptions, set_model_state_dict
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard, register_fsdp_forward_method
from torch.distributed.tensor import DTensor, distribute_tensor
from torch.optim import Optimizer
from torch.utils._pytree import tree_map_only

from diffx import ranks
from diffx.backbone import Backbone
from diffx.config.settings import Settings
from diffx.train.lightning_internals import Handed, WholeEpoch, leave_signals_alone, plain

BUCKET = 25  # MiB of gradients that DDP sums at once, torch's default; a block's where that is more
GATHERED = 4 * 2**30  # bytes of float32: weights of this size cost less memory gathered than time gathered twice
TRUE = MixedPrecisionPolicy()
_LIGHTNINGS: dict[str, Any] = {"tf32": "32-true", "fp8": "bf16-mixed"}  # Lightning's part of what is diffx's


def make_trainer(
    settings: Settings, device: torch.device, callbacks: list[L.Callback], backbone: Backbone
) -> L.Trainer:
    """A Lightning trainer of `backbone` that leaves bars, checkpoints and samplers to diffx, and is silent."""
    for name in ("lightning.pytorch", "lightning.fabric", "lightning.pytorch.utilities.rank_zero"):
        logging.getLogger(name).setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", module="lightning.*")
    warnings.filterwarnings("ignore", message=".*torch.jit.script", module="torch.jit")  # torch.func.jvp's
    trainer = L.Trainer(
        accelerator=device.type,
        devices=settings.trainer.devices,
        num_nodes=settings.trainer.num_nodes,
        strategy=make_strategy(settings.trainer.strategy, device, backbone),
        plugins=[Ranks(), Handed(device)],
        precision=_LIGHTNINGS.get(settings.trainer.precision, settings.trainer.precision),
        accumulate_grad_batches=settings.trainer.accumulate,
        gradient_clip_val=settings.trainer.gradient_clip_val,
        max_steps=settings.max_steps,
        max_epochs=-1,
        logger=False,
        callbacks=[*callbacks, WholeEpoch()],
        enable_progress_bar=False,
        enable_checkpointing=False,
        enable_model_summary=False,
        use_distributed_sampler=False,
        num_sanity_val_steps=0,
    )
    leave_signals_alone(trainer)
    return trainer


def make_strategy(name: str, device: torch.device, backbone: Backbone) -> Strategy | str:
    """Lightning's strategy for "ddp" or "fsdp"; one process needs neither."""
    if ranks.world() == 1:
        return "auto"
    backend = "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo"  # metrics sum on the CPU too
    if name == "fsdp":
        return Sharded(
            data_parallel_size=ranks.world(),
            tensor_parallel_size=1,
            save_distributed_checkpoint=False,
            process_group_backend=backend,
        )
    # Buffers are tables and weights of losses, alike on all ranks.
    return DDPStrategy(
        process_group_backend=backend,
        broadcast_buffers=False,
        gradient_as_bucket_view=True,
        bucket_cap_mb=max(BUCKET, math.ceil(block_bytes(backbone) / 2**20)),
    )


def block_bytes(backbone: Backbone) -> int:
    """Bytes of the largest block's parameters."""
    return max(sum(p.numel() * p.element_size() for p in block.parameters()) for block in backbone.blocks.children())


def shard(
    module: nn.Module, averages: Sequence[Backbone], backbone: Backbone, mesh: DeviceMesh, half: bool = False
) -> None:
    """Spread a training module over the ranks of a mesh: every block is a group, each average and the rest another.

    half: training autocasts to bfloat16, as which the blocks' weights then travel; gradients are summed in float32.
    Where all blocks together fit beside the rest (GATHERED) they stay gathered until their backward pass.
    """
    policy = MixedPrecisionPolicy(torch.bfloat16, torch.float32, cast_forward_inputs=False) if half else TRUE
    blocks = list(backbone.blocks.children())
    stay = len(blocks) * block_bytes(backbone) < GATHERED
    for net in averages:
        for block in net.blocks.children():
            fully_shard(block, mesh=mesh)
        fully_shard(net, mesh=mesh)
    for block in blocks:
        fully_shard(block, mesh=mesh, mp_policy=policy, reshard_after_forward=not stay)
    fully_shard(module, mesh=mesh)
    register_fsdp_forward_method(module, "training_step")  # walk() calls parts of the backbone, never its forward


def unsharded(tensor: Tensor) -> Tensor:
    """All of a tensor; every rank has to ask for it."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


class Sharded(ModelParallelStrategy):
    """FSDP2 whose checkpoints are those of one process, down to the optimizer's, so that a run goes on under either."""

    def optimizer_state(self, optimizer: Optimizer) -> dict[str, Any]:
        """Whole tensors on the CPU; every rank has to ask for them."""
        return tree_map_only(DTensor, lambda part: part.full_tensor().cpu(), plain(optimizer).state_dict())

    def load_checkpoint(self, checkpoint_path: Any, weights_only: bool | None = None) -> dict[str, Any]:
        """Every rank reads the file and keeps its part."""
        checkpoint = torch.load(checkpoint_path, map_location="cpu", mmap=True, weights_only=True)
        assert self.model is not None
        set_model_state_dict(self.model, checkpoint["state_dict"], options=StateDictOptions(full_state_dict=True))
        for optimizer, state in zip(self.optimizers, checkpoint["optimizer_states"], strict=True):
            parameters = [p for group in optimizer.param_groups for p in group["params"]]
            parts = {i: _like(parameters[i], values) for i, values in state["state"].items()}
            optimizer.load_state_dict(with_settings_of(optimizer, {**state, "state": parts}))
        return checkpoint


def with_settings_of(optimizer: Optimizer, state: dict[str, Any]) -> dict[str, Any]:
    """A saved state with this optimizer's settings (learning rate and the like), which a resume may have changed."""
    ours = optimizer.state_dict()["param_groups"]
    groups = [
        theirs | own | {"params": theirs["params"]} for theirs, own in zip(state["param_groups"], ours, strict=True)
    ]
    return {**state, "param_groups": groups}


def _like(parameter: Tensor, values: dict[str, Any]) -> dict[str, Any]:
    """What an optimizer keeps of a parameter, spread over the ranks as the parameter is."""
    if not isinstance(parameter, DTensor):
        return values
    mesh, placements = parameter.device_mesh, parameter.placements

    def spread(value: Any) -> Any:
        if not isinstance(value, Tensor) or value.shape != parameter.shape or not value.ndim:
            return value
        return distribute_tensor(value.to(parameter.device), mesh, placements, src_data_rank=None)

    return {name: spread(value) for name, value in values.items()}


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
