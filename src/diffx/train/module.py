"""The LightningModule: micro-batches, clipping, the guard, optimizer, EMA, sharding and compilation around the step."""

import copy
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import lightning as L
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.fsdp import fully_shard, register_fsdp_forward_method
from torch.distributed.tensor import DTensor
from torch.utils.checkpoint import checkpoint

from diffx import step
from diffx.assemble.model import TrainingModel
from diffx.backbone.dit import DiT
from diffx.plugin import Batch
from diffx.train.ema import local, update_ema
from diffx.train.guard import Guard
from diffx.train.strategy import with_settings_of

MOST_GRAPHS = 64  # of a compiled block: all its numbers of tokens, with and without gradients, skips and ids
OptimizerFactory = Callable[[list[nn.Parameter]], torch.optim.Optimizer]


class DiffusionModule(L.LightningModule):
    """Trains `backbone` with `plugins`; `ema` is an exponential moving average of the backbone alone.

    In a checkpoint, backbone.*, ema.* and more_ema.<decay>.* are plain DiTs and plugins.<name>.* is the rest. Services
    (teachers) are held outside the module tree: they are in no checkpoint, optimizer or EMA.

    Args:
        ema_decay, more_ema_decays: of `ema` and of further averages.
        accumulate: micro-batches to a step. Micro-batch i of rank r draws as rank r·accumulate + i would, so that
            devices and accumulation are two ways to the same step.
        skip_limit: so many steps in a row without a finite gradient end the run.
        compile: none | blocks (each block by itself) | step (all of the losses as one graph).
        activation_checkpointing: blocks keep their inputs alone and run a second time in the backward pass.
        shard: over all ranks (FSDP2), each block by itself; the rest, plugins included, is one group.
    """

    def __init__(
        self,
        model: TrainingModel,
        optimizer: OptimizerFactory,
        services: step.Services,
        *,
        seed: int,
        label_dropout: float,
        ema_decay: float,
        more_ema_decays: Sequence[float] = (),
        accumulate: int = 1,
        skip_limit: int = 10,
        compile: str = "none",
        activation_checkpointing: bool = False,
        shard: bool = False,
    ) -> None:
        super().__init__()
        self.backbone = model.backbone
        self.plugins = nn.ModuleDict(model.plugins)
        self._plugins = model.plugins  # the same objects, typed
        self.ema = _average_of(model.backbone)
        self.more_ema = nn.ModuleDict({_key(decay): _average_of(model.backbone) for decay in more_ema_decays})
        self.decays = [ema_decay, *more_ema_decays]
        self.objective, self.plan = model.objective, model.plan
        self.seed, self.label_dropout, self.accumulate, self.shard = seed, label_dropout, accumulate, shard
        self.terms: dict[str, Tensor] = {}  # the last step's losses, on the device
        self.gradient_norm = torch.zeros(())
        self.guard = Guard(skip_limit)
        self._make_optimizer = optimizer
        self._services = services
        self._losses = step.losses
        self._trained: list[tuple[str, nn.Parameter]] = []
        self._whole = [copy.deepcopy(self.ema)] if shard else []  # in a list, so that it is no part of this module
        # Numbers of tokens are few, and kernels made for one number are the faster ones.
        torch._dynamo.config.recompile_limit = max(torch._dynamo.config.recompile_limit, MOST_GRAPHS)
        if compile == "step":
            self._losses = torch.compile(step.losses, fullgraph=True, dynamic=False)
        _wrap_blocks(self.backbone, compile == "blocks", activation_checkpointing)

    def configure_model(self) -> None:
        """Shard the weights, where they are to be."""
        if not self.shard:
            return
        mesh = self.device_mesh["data_parallel"]  # type: ignore[index]
        for net in self.emas.values():
            for block in net.blocks.children():
                fully_shard(block, mesh=mesh)
            fully_shard(net, mesh=mesh)
        for block in self.backbone.blocks.children():
            fully_shard(block, mesh=mesh)
        fully_shard(self, mesh=mesh)
        register_fsdp_forward_method(self, "training_step")  # walk() calls parts of the backbone, never its forward

    @property
    def emas(self) -> dict[float, DiT]:
        """All averages by their decay, the main one first."""
        nets: list[Any] = [self.ema, *self.more_ema.values()]
        return dict(zip(self.decays, nets, strict=True))

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """The loss of one micro-batch."""
        part = batch_idx % self.accumulate
        for plugin in self._plugins.values():
            plugin.follow_schedule(self.global_step)
        draws = step.draw(
            self.plan,
            self._plugins,
            self.objective,
            batch,
            self._services,
            step.Streams(self.seed, self.global_step, self.global_rank * self.accumulate + part, self.device),
            self.label_dropout,
            self.backbone.null_label,
        )
        terms = self._losses(self.backbone, self.plan, self._plugins, self.objective, draws)
        earlier = self.terms if part else {}
        self.terms = {name: earlier.get(name, 0) + value.detach() / self.accumulate for name, value in terms.items()}
        return terms["total"]

    def configure_gradient_clipping(
        self,
        optimizer: torch.optim.Optimizer,
        gradient_clip_val: int | float | None = None,
        gradient_clip_algorithm: str | None = None,
    ) -> None:
        """Clip the gradients by their norm over all parameters; one that is not finite makes this step do nothing."""
        named = [(name, p.grad) for name, p in self._trained if p.grad is not None]
        gradients = [local(gradient) for _, gradient in named]
        norms = torch.stack(torch._foreach_norm(gradients))
        if self.shard:
            squares = norms.square()
            dist.all_reduce(squares)
            norms = squares.sqrt()
        self.gradient_norm = torch.linalg.vector_norm(norms)
        bad = self.guard.see([name for name, _ in named], norms, self.terms)
        if gradient_clip_val:
            torch._foreach_mul_(gradients, (gradient_clip_val / (self.gradient_norm + 1e-6)).clamp(max=1.0))
        _skip_if(bad, optimizer)

    def optimizer_step(self, *args: Any, **kwargs: Any) -> None:
        super().optimizer_step(*args, **kwargs)
        for decay, ema in self.emas.items():
            update_ema(ema, self.backbone, decay)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint["plugins"] = sorted(self._plugins)  # TREAD has no tensor that would tell
        checkpoint["skipped"] = int(self.guard.skipped)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        self.guard.skipped.fill_(checkpoint.get("skipped", 0))
        optimizer = self.configure_optimizers()
        checkpoint["optimizer_states"] = [with_settings_of(optimizer, s) for s in checkpoint["optimizer_states"]]
        # Lightning counts micro-batches, whose number in a step may be another one now.
        progress = checkpoint["loops"]["fit_loop"]["epoch_loop.batch_progress"]
        for counts in (progress["total"], progress["current"]):
            counts.update(dict.fromkeys(counts, checkpoint["global_step"] * self.accumulate))

    def configure_optimizers(self) -> torch.optim.Optimizer:
        self._trained = [(name, p) for name, p in self.named_parameters() if p.requires_grad]
        return self._make_optimizer([p for _, p in self._trained])

    def whole_ema(self, decay: float | None = None) -> DiT:
        """An average with all of its weights on this rank: every rank has to ask for it."""
        ema = self.emas[self.decays[0] if decay is None else decay]
        if not self.shard:
            return ema
        whole = copy.deepcopy(self._whole[0]).to(self.device)
        whole.load_state_dict({key: _whole(value) for key, value in ema.state_dict().items()})
        return whole


def _wrap_blocks(backbone: DiT, compiled: bool, rerun: bool) -> None:
    """Compile each block by itself; have it run a second time in the backward pass."""
    for block in backbone.blocks.children():
        if compiled:  # they share one graph
            block.forward = torch.compile(block.forward, fullgraph=True, dynamic=False)
        if rerun:
            # Blocks draw nothing at random, so that there is no random state to keep.
            block.forward = partial(checkpoint, block.forward, use_reentrant=False, preserve_rng_state=False)


def _average_of(backbone: DiT) -> DiT:
    return copy.deepcopy(backbone).requires_grad_(False).eval()


def _key(decay: float) -> str:
    """A decay as a module's name, which has no dots."""
    return str(decay).replace(".", "_")


def _whole(tensor: Tensor) -> Tensor:
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def _skip_if(bad: Tensor, optimizer: torch.optim.Optimizer) -> None:
    """Make the coming step of the optimizer do nothing if `bad`."""
    if all(group.get("fused") for group in optimizer.param_groups):
        optimizer.grad_scale, optimizer.found_inf = None, bad.float()  # type: ignore[attr-defined]  # GradScaler's way
    elif bad:  # waits for the device, which only optimizers without a fused kernel make necessary
        optimizer.zero_grad(set_to_none=True)
