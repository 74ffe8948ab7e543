"""The training step, from top to bottom in the order in which it runs.

Lightning calls these methods of DiffusionModule:

    training_step                   draw what is random, walk the tokens through the blocks, add up the losses
    (Lightning)                     backward; with several micro-batches to a step, so far for each of them
    configure_gradient_clipping     guard: is the gradient finite? clip
    optimizer_step                  the optimizer, then the averages
    on_train_batch_end              clock, stop, guard, progress, evaluation, checkpoint, snapshot
"""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple, Protocol

import lightning as L
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from diffx import step
from diffx.assemble.model import BATCH_KEYS, TrainingModel, set_up
from diffx.backbone import Backbone
from diffx.backbone.layers.fp8 import multiply_in_fp8
from diffx.backbone.layers.fused import fuse_blocks
from diffx.backbone.teacher import NetworkTeacher
from diffx.checkpoint.post_hoc import decay_at
from diffx.end_to_end import EndToEnd, clip_
from diffx.errors import DiffxError
from diffx.objective import Averaging, Interpolant, Objective
from diffx.planner import Phase, make_phases, phase_at
from diffx.plugin import Batch, Plugin
from diffx.streams import Streams
from diffx.train.ema import average_of, key_of, local, update_ema_unless
from diffx.train.guard import Guard, GuardCheck
from diffx.train.trainer import shard, unsharded, with_settings_of

MOST_GRAPHS = 64  # of a compiled block: all its numbers of tokens, with and without gradients, skips and ids
OptimizerFactory = Callable[[list[tuple[str, nn.Parameter]]], torch.optim.Optimizer]
"""From named parameters, which torch's optimizers take as they are."""


class Act(Protocol):
    """Something to do after an optimizer step."""

    def after_step(self, trainer: L.Trainer, module: "DiffusionModule") -> None: ...


class AfterStep(NamedTuple):
    """What follows every optimizer step of a run, in this order."""

    clock: Act
    stop: Act
    guard: Act
    progress: Act
    evaluation: Act
    checkpoint: Act
    snapshot: Act


class DiffusionModule(L.LightningModule):
    """Trains `backbone` with `plugins`; `ema` is an exponential moving average of the backbone alone.

    In a checkpoint, backbone.*, ema.* and more_ema.<decay>.* are plain backbones and plugins.<name>.* is the rest.
    Services (teachers) are held outside the module tree: they are in no checkpoint, optimizer or EMA.

    Args:
        ema_decay, more_ema_decays: of `ema` and of further averages.
        learning_rate: by step, the share of the optimizer's; None leaves that alone.
        powers: lengths of power-function averages, which are kept in `powers` (diffx.checkpoint.post_hoc).
        skip_limit: so many steps in a row without a finite gradient end the run.
        compile: none | blocks (each block by itself) | step (all of the losses as one graph).
        stream: float32, or bfloat16 under autocast: what the residual stream is kept in between blocks.
        fused: blocks sum, normalise and modulate in kernels of their own (diffx.backbone.layers.fused).
        fp8: the blocks' products are in 8-bit floats (diffx.backbone.layers.fp8).
        activation_checkpointing: blocks keep their inputs alone and run a second time in the backward pass.
        shard: over all ranks (FSDP2), each block by itself; the rest, plugins included, is one group.
        end_to_end: an autoencoder that is trained with the network, whose latents of the batch's images it then sees.

    Attributes:
        after: what follows every optimizer step; by itself, a look at the guard every 20.
        terms: the last step's losses, on the device.
        run: what its checkpoints say they are of.
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
        learning_rate: Callable[[int], float] | None = None,
        powers: Sequence[float] = (),
        skip_limit: int = 10,
        compile: str = "none",
        stream: str = "float32",
        fused: bool = False,
        fp8: bool = False,
        activation_checkpointing: bool = False,
        shard: bool = False,
        end_to_end: EndToEnd | None = None,
    ) -> None:
        super().__init__()
        if isinstance(model.objective, Averaging) and (shard or fused or compile == "step"):
            raise DiffxError(
                "This objective takes a forward-mode derivative of the network, which has not been made to work with a "
                "sharded network, with fused kernels or with a step as one graph; type compile=blocks, "
                "trainer.strategy=ddp and trainer.fused=false."
            )
        self.backbone = model.backbone
        self.plugins = nn.ModuleDict(model.plugins)
        self._plugins = model.plugins  # the same objects, typed
        self.end_to_end = end_to_end
        self.ema = average_of(model.backbone)
        self.more_ema = nn.ModuleDict({key_of(decay): average_of(model.backbone) for decay in more_ema_decays})
        self.powers = nn.ModuleDict({key_of(length): average_of(model.backbone) for length in powers})
        self.lengths = list(powers)
        self.decays = [ema_decay, *more_ema_decays]
        self.objective, self.phases = model.objective, model.phases
        self.seed, self.label_dropout, self.shard = seed, label_dropout, shard
        self.run = ""
        self.terms: dict[str, Tensor] = {}
        self.gradient_norm = torch.zeros(())
        self.guard = Guard(skip_limit)
        self.after: Sequence[Act] = (GuardCheck(every=20),)
        self._make_optimizer, self._share_of_rate = optimizer, learning_rate
        self._rates: list[float] = []
        self._services: step.Services = {"ema": NetworkTeacher(self.ema), **services}
        self._losses = step.losses
        self._trained: list[tuple[str, nn.Parameter]] = []
        self._whole = [average_of(self.ema)] if shard else []  # in a list, so that it is no part of this module
        self._last_step = -1
        if stream == "bfloat16":  # of what is trained; averages are sampled in an arithmetic of their own
            self.backbone.stream_dtype = torch.bfloat16
        if fused:
            fuse_blocks(self.backbone.blocks)
        if fp8:
            multiply_in_fp8(self.backbone.blocks)
        # Numbers of tokens are few, and kernels made for one number are the faster ones.
        torch._dynamo.config.recompile_limit = max(torch._dynamo.config.recompile_limit, MOST_GRAPHS)
        if compile == "step":
            self._losses = torch.compile(step.losses, fullgraph=True, dynamic=False)
        if compile == "blocks":
            torch._dynamo.config.optimize_ddp = False  # or DDP's compiler would cut every block into pieces
            _compile_blocks(self.backbone)
        if activation_checkpointing:
            _run_blocks_again(self.backbone)

    @classmethod
    def of(
        cls,
        backbone: Backbone,
        plugins: Mapping[str, Plugin] | None = None,
        *,
        objective: Objective | None = None,
        optimizer: OptimizerFactory = torch.optim.AdamW,
        services: step.Services | None = None,
        seed: int = 0,
        label_dropout: float = 0.1,
        ema_decay: float = 0.9999,
        **options: Any,
    ) -> "DiffusionModule":
        """For a `lightning.Trainer` of one's own, whose loader gives batches {"x": (B, C, H, W), "y": (B,), ...}.

        services: what plugins need and batches lack, by name, such as {"features/dinov2_vitb14": encoder}. options: the
        class's own.

        Raises:
            DiffxError: a set of plugins that cannot work, or needs what neither batches nor services have.
        """
        chosen, given = dict(plugins or {}), dict(services or {})
        learned = objective or Interpolant()
        for name, plugin in chosen.items():
            set_up(name, plugin, backbone, learned)
        phases = make_phases(backbone, chosen, {*BATCH_KEYS, *given, "ema"})
        model = TrainingModel(backbone, chosen, learned, phases)
        return cls(model, optimizer, given, seed=seed, label_dropout=label_dropout, ema_decay=ema_decay, **options)

    def configure_model(self) -> None:
        """Shard the weights, where they are to be."""
        if self.shard:
            mesh = self.device_mesh["data_parallel"]  # type: ignore[index]
            averages: list[Any] = [*self.emas.values(), *self.powers.values()]
            shard(self, averages, self.backbone, mesh, self.trainer.precision == "bf16-mixed")

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """The optimizer of all trained parameters, backbone and plugins."""
        self._trained = [(name, p) for name, p in self.named_parameters() if p.requires_grad]
        optimizer = self._make_optimizer(self._trained)
        self._rates = [group["lr"] for group in optimizer.param_groups]
        return optimizer

    def on_train_start(self) -> None:
        self._last_step = self.global_step

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """The loss of one micro-batch. Micro-batch i of rank r draws as rank r·accumulate + i would, so that devices
        and accumulation are two ways to the same step."""
        accumulate = self.trainer.accumulate_grad_batches
        part = batch_idx % accumulate
        phase = phase_at(self.phases, self.global_step)
        plugins = {name: self._plugins[name] for name in phase.plugins}
        for plugin in plugins.values():
            plugin.follow_schedule(self.global_step)
        streams = Streams(self.seed, self.global_step, self.global_rank * accumulate + part, self.device)
        encoded = None
        if self.end_to_end is not None:
            batch, encoded = self.end_to_end.encode(batch, streams)
        draws = step.draw(
            self.backbone,
            phase.plan,
            plugins,
            self.objective,
            batch,
            self._services,
            streams,
            self.label_dropout,
        )
        terms = self._losses(self.backbone, phase.plan, plugins, self.objective, draws)
        if self.end_to_end is not None:
            own = self.end_to_end.losses(encoded, draws, self.backbone, plugins, self.objective)
            terms = {**terms, **own, "total": terms["total"] + own["total"]}
        earlier = self.terms if part else {}
        self.terms = {name: earlier.get(name, 0) + value.detach() / accumulate for name, value in terms.items()}
        return terms["total"] + self._idle(phase)

    def _idle(self, phase: Phase) -> Tensor | float:
        """Nothing, with a zero gradient for the parameters of plugins that have stopped: DDP waits for every one."""
        stopped = [plugin for name, plugin in self._plugins.items() if name not in phase.plugins]
        idle = [p.sum() for plugin in stopped for p in plugin.parameters() if p.requires_grad]
        return 0.0 * torch.stack(idle).sum() if idle else 0.0

    def configure_gradient_clipping(
        self,
        optimizer: torch.optim.Optimizer,
        gradient_clip_val: int | float | None = None,
        gradient_clip_algorithm: str | None = None,
    ) -> None:
        """Clip the gradients by their norm over all parameters, those of an autoencoder and its discriminator by their
        own; one that is not finite makes this step do nothing."""
        named = [(name, p.grad) for name, p in self._trained if p.grad is not None]
        gradients = [local(gradient) for _, gradient in named]
        norms = torch.stack(torch._foreach_norm(gradients))
        if self.shard:
            squares = norms.square()
            dist.all_reduce(squares)
            norms = squares.sqrt()
        bad = self.guard.see([name for name, _ in named], norms, self.terms)
        if self.end_to_end is None:
            self.gradient_norm = torch.linalg.vector_norm(norms)
            if gradient_clip_val:
                clip_(gradients, self.gradient_norm, gradient_clip_val)
        else:
            names = [name for name, _ in named]
            self.gradient_norm = self.end_to_end.clip_groups(names, gradients, norms, gradient_clip_val)
        _skip_if(bad, optimizer)

    def optimizer_step(self, *args: Any, **kwargs: Any) -> None:
        """The optimizer, and then the averages, which a skipped step leaves where they are."""
        if self._share_of_rate is not None:
            share = self._share_of_rate(self.global_step)
            for group, rate in zip(self.trainer.optimizers[0].param_groups, self._rates, strict=True):
                group["lr"] = rate * share
        step = self.global_step + 1
        super().optimizer_step(*args, **kwargs)
        for decay, ema in self.emas.items():
            update_ema_unless(self.guard.bad, ema, self.backbone, decay)
        for length, power in zip(self.lengths, self.powers.values(), strict=True):
            update_ema_unless(self.guard.bad, power, self.backbone, decay_at(length, step))
        if self.end_to_end is not None:
            self.end_to_end.follow(self.guard.bad, self.decays[0])

    def on_train_batch_end(self, *args: Any) -> None:
        """What follows an optimizer step. Lightning calls this after every micro-batch."""
        if self.global_step == self._last_step:
            return
        self._last_step = self.global_step
        for act in self.after:
            act.after_step(self.trainer, self)

    @property
    def emas(self) -> dict[float, Backbone]:
        """All averages by their decay, the main one first."""
        nets: list[Any] = [self.ema, *self.more_ema.values()]
        return dict(zip(self.decays, nets, strict=True))

    def whole_ema(self, decay: float | None = None) -> Backbone:
        """An average with all of its weights on this rank: every rank has to ask for it."""
        return self.whole(self.emas[self.decays[0] if decay is None else decay])

    def whole(self, ema: Backbone) -> Backbone:
        """One of the averages with all of its weights on this rank: every rank has to ask for it."""
        if not self.shard:
            return ema
        whole = average_of(self._whole[0]).to(self.device)
        whole.load_state_dict({key: unsharded(value) for key, value in ema.state_dict().items()})
        return whole

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint["plugins"] = sorted(self._plugins)  # TREAD has no tensor that would tell
        checkpoint["run"] = self.run
        checkpoint["skipped"] = int(self.guard.skipped)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        self.guard.skipped.fill_(checkpoint.get("skipped", 0))
        optimizer = self.configure_optimizers()
        checkpoint["optimizer_states"] = [with_settings_of(optimizer, s) for s in checkpoint["optimizer_states"]]


def _compile_blocks(backbone: Backbone) -> None:
    """Each block by itself; they share one graph."""
    for block in backbone.blocks.children():
        block.forward = torch.compile(block.forward, fullgraph=True, dynamic=False)


def _run_blocks_again(backbone: Backbone) -> None:
    """Blocks keep their inputs and run a second time in the backward pass. They draw nothing at random, so that there
    is no random state to keep."""
    for block in backbone.blocks.children():
        block.forward = partial(checkpoint, block.forward, use_reentrant=False, preserve_rng_state=False)


def _skip_if(bad: Tensor, optimizer: torch.optim.Optimizer) -> None:
    """Make the coming step of the optimizer do nothing if `bad`."""
    if all(group.get("fused") for group in optimizer.param_groups):
        optimizer.grad_scale, optimizer.found_inf = None, bad.float()  # type: ignore[attr-defined]  # GradScaler's way
    elif bad:  # waits for the device, which only optimizers without a fused kernel make necessary
        optimizer.zero_grad(set_to_none=True)
