"""The LightningModule: optimizer, EMA and compilation around the training step."""

import copy
from collections.abc import Callable
from typing import Any

import lightning as L
import torch
from torch import Tensor, nn

from diffx import step
from diffx.build import Model
from diffx.plugin import Batch

OptimizerFactory = Callable[[list[nn.Parameter]], torch.optim.Optimizer]


class DiffusionModule(L.LightningModule):
    """Trains `backbone` with `plugins`; `ema` is an exponential moving average of the backbone alone.

    In a checkpoint, backbone.* and ema.* are plain DiTs and plugins.<name>.* is the rest. Services (teachers) are held
    outside the module tree: they are in no checkpoint, optimizer or EMA.
    """

    def __init__(
        self,
        model: Model,
        optimizer: OptimizerFactory,
        services: step.Services,
        *,
        seed: int,
        label_dropout: float,
        ema_decay: float,
        compile: str = "none",
    ) -> None:
        super().__init__()
        self.backbone = model.backbone
        self.plugins = nn.ModuleDict(model.plugins)
        self._plugins = model.plugins  # the same objects, typed
        self.ema = copy.deepcopy(model.backbone).requires_grad_(False).eval()
        self.objective, self.plan = model.objective, model.plan
        self.seed, self.label_dropout, self.ema_decay = seed, label_dropout, ema_decay
        self.terms: dict[str, Tensor] = {}  # the last step's losses, on the device
        self._make_optimizer = optimizer
        self._services = services
        self._losses = step.losses
        if compile == "step":
            self._losses = torch.compile(step.losses, fullgraph=True)
        elif compile == "blocks":
            for block in self.backbone.blocks.children():
                block.compile(fullgraph=True)

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        for plugin in self._plugins.values():
            plugin.follow_schedule(self.global_step)
        draws = step.draw(
            self.plan,
            self._plugins,
            self.objective,
            batch,
            self._services,
            step.Streams(self.seed, self.global_step, self.global_rank, self.device),
            self.label_dropout,
            self.backbone.null_label,
        )
        terms = self._losses(self.backbone, self.plan, self._plugins, self.objective, draws)
        self.terms = {name: value.detach() for name, value in terms.items()}
        return terms["total"]

    def optimizer_step(self, *args: Any, **kwargs: Any) -> None:
        super().optimizer_step(*args, **kwargs)
        update_ema(self.ema, self.backbone, self.ema_decay)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint["plugins"] = sorted(self._plugins)  # TREAD has no tensor that would tell

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return self._make_optimizer([p for p in self.parameters() if p.requires_grad])


@torch.no_grad()
def update_ema(ema: nn.Module, live: nn.Module, decay: float) -> None:
    """ema <- decay · ema + (1 − decay) · live over all trained parameters in one call; fixed tables stay."""
    pairs = [(e, p.detach()) for e, p in zip(ema.parameters(), live.parameters(), strict=True) if p.requires_grad]
    averages, parameters = map(list, zip(*pairs, strict=True))
    torch._foreach_lerp_(averages, parameters, 1 - decay)
