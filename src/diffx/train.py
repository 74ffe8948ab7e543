"""One training run, from a resolved configuration to its run directory."""

import logging
import os
import platform
import warnings
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import lightning as L
import torch
from hydra.utils import get_class, instantiate
from lightning.pytorch.loggers import WandbLogger
from omegaconf import DictConfig, OmegaConf
from rich.console import Console
from torch import Tensor, nn
from torch.utils.data import DataLoader

from diffx import ranks
from diffx.build import Model, build_model, encoder_names
from diffx.callbacks import Checkpoints, Clock, Evaluations, Interruption, Report, Stop
from diffx.checkpoint.native import check_belongs, read_checkpoint
from diffx.data.batches import StepBatches
from diffx.encoder import encoder_spec, make_encoder
from diffx.errors import DiffxError
from diffx.evaluation import Sampling, protocol
from diffx.meter import Flops, Meter, count_flops, flops_of
from diffx.module import DiffusionModule
from diffx.picture import save_grid
from diffx.plan_table import plan_table
from diffx.run import RunDir, git_state, run_id, short_hash, versions
from diffx.step import Services

console = Console(highlight=False)


@dataclass(frozen=True)
class Parts:
    """All that a run is made of, checked against each other, before anything is written."""

    model: Model
    data: Any
    metrics: Any
    services: Services
    flops: Flops
    meter: Meter
    protocol: dict[str, Any]


def train(config: DictConfig) -> RunDir:
    """Train as configured, or go on where this run stopped, or say that it is complete; returns its directory.

    Raises:
        DiffxError: bad settings, no data, a checkpoint of another model, a loss that is not finite, an interruption.
            What can be refused is refused before the first file is written.
    """
    run = RunDir.of(config)
    if config.resume == "auto" and run.read_card().get("finished_with") == _length(config):
        console.print(f"{run.path} is complete already; type resume=never to train it anew.")
        return run
    parts = assemble(config)
    module = make_module(config, parts)
    checkpoint = _checkpoint(config, run, module)
    text = plan_table(parts.model.backbone, parts.model.plugins, parts.model.plan, parts.flops)
    if ranks.is_first():
        run.create(config, text)
        run.write_card(**card(config, parts))
        print(text, flush=True)
    fit(config, run, parts, module, checkpoint)
    return run


def assemble(config: DictConfig) -> Parts:
    """Build every part of a run, each of which may refuse."""
    model = build_model(config)
    device = pick_device(config.trainer.accelerator)
    meter = Meter(device, ranks.world())
    _check_budget_unit(config, meter)
    data = instantiate(config.data.source)
    expected = (model.backbone.in_channels, model.backbone.input_size, model.backbone.input_size)
    if tuple(data.shape) != expected:
        raise DiffxError(
            f"data={config.data.name} has samples of shape {tuple(data.shape)} and the backbone takes {expected}; "
            "type data.channels=, data.size= as the data has them."
        )
    metrics = instantiate(config.eval.metrics, data=data)
    services = {f"features/{n}": make_encoder(n, data, model.backbone.side, device) for n in encoder_names(model.plan)}
    image = data.batch(torch.zeros(1, dtype=torch.long))["image"]
    teachers = {name: flops_of(service, image) for name, service in services.items()}
    flops = count_flops(model.backbone, model.plugins, model.objective, model.plan, teachers)
    return Parts(model, data, metrics, services, flops, meter, protocol(config, data.identity, metrics.identity))


def make_module(config: DictConfig, parts: Parts) -> DiffusionModule:
    """The LightningModule of these parts."""
    settings = {str(key): value for key, value in config.optimizer.items() if key != "_target_"}
    return DiffusionModule(
        parts.model,
        partial(get_class(config.optimizer._target_), **settings),
        parts.services,
        seed=config.seed,
        label_dropout=config.label_dropout,
        ema_decay=config.ema_decay,
        compile=config.compile,
    )


def fit(
    config: DictConfig, run: RunDir, parts: Parts, module: DiffusionModule, checkpoint: tuple[Path, int] | None
) -> None:
    """Train to the end of the steps or of the budget, evaluate, and keep run.json truthful about how it ended."""
    path, start = checkpoint or (None, 0)
    if ranks.is_first():
        run.forget_after(start)
        if path:
            console.print(f"going on from step {start} ({path})")
    meter, interruption = parts.meter, Interruption()
    budget = config.budget[meter.unit] if config.budget else None
    logger = _logger(config, run, parts)
    evaluations = Evaluations(
        Evaluation(config, run, parts, logger), meter, config.eval.first, config.eval.per_doubling
    )
    checkpoints = Checkpoints(run.last_checkpoint, meter, config.checkpoint_minutes)
    report = Report(meter, config.log_every, config.batch_size, config.max_steps, budget)
    clock = Clock(meter, budget)
    stop = Stop(clock, interruption, config.log_every)
    trainer = _trainer(config, meter, logger, [clock, interruption, stop, report, evaluations, checkpoints])
    loader = _loader(parts.data, config.batch_size, config.seed, start)
    try:
        trainer.fit(module, loader, ckpt_path=path and str(path), weights_only=True)
        if not interruption.received:
            evaluations.finish(trainer, module)
    except DiffxError:
        run.write_card(status="failed", clock=meter.seconds)
        raise
    finally:
        if logger is not None:
            logger.experiment.finish()
    if ranks.is_first():
        _close(config, run, parts, trainer.global_step, bool(interruption.received))


def _close(config: DictConfig, run: RunDir, parts: Parts, step: int, interrupted: bool) -> None:
    """Write how the run ended and what it took, and say so."""
    meter = parts.meter
    seconds = meter.seconds["train"]
    on_gpu = meter.device.type == "cuda"
    measured = {
        "clock": meter.seconds,
        "samples_per_second": step * config.batch_size / seconds if seconds else 0.0,
        "peak_memory_bytes": torch.cuda.max_memory_allocated() if on_gpu else None,
    }
    if interrupted:
        run.write_card(status="interrupted", **measured)
        raise DiffxError(f"Stopped at step {step} and saved in {run.path}; type the same command again to go on.")
    run.write_card(status="complete", finished_with=_length(config), **measured)
    console.print(f"done: {step} steps, {meter.hours:.4f} {meter.unit.replace('_', '-')}, everything is in {run.path}")


class Evaluation:
    """Samples from the EMA weights, measures them, and writes one line of the curve and one picture."""

    def __init__(self, config: DictConfig, run: RunDir, parts: Parts, logger: WandbLogger | None) -> None:
        self.config, self.run, self.parts, self.logger = config, run, parts, logger
        self.sampling = Sampling(config, parts.model.objective)
        self.protocol_hash = short_hash(parts.protocol)

    def __call__(self, module: DiffusionModule, step: int) -> None:
        data, meter = self.parts.data, self.parts.meter
        mine = range(ranks.rank(), self.config.eval.samples, ranks.world())
        batches = self.sampling.batches(module.ema, mine, module.device)
        images = ranks.gather(torch.cat([data.decode(x) for x in batches])).cpu()
        if not ranks.is_first():
            return
        values = self.parts.metrics(images)
        count = step * self.config.batch_size
        self.run.append_point(
            {
                "step": step,
                "images": count,
                meter.unit: meter.hours,
                "train_flops": count * self.parts.flops.train,
                "values": values,
                "protocol": self.protocol_hash,
                "ema_decay": self.config.ema_decay,
            }
        )
        picture = self.run.path / "samples" / f"step_{step:08d}.png"
        save_grid(images[:100], picture)
        console.print(f"step {step} · " + " · ".join(f"{name} {value:.3g}" for name, value in values.items()))
        self._log(values, picture, step)

    def _log(self, values: dict[str, float], picture: Path, step: int) -> None:
        if self.logger is None:
            return
        unit = self.parts.meter.unit
        for name in values:
            self.logger.experiment.define_metric(f"eval/{name}", step_metric=unit, summary="min")
        row = {f"eval/{name}": value for name, value in values.items()} | {unit: self.parts.meter.hours}
        self.logger.log_metrics(row, step=step)
        self.logger.log_image("samples", [str(picture)], step=step)


def card(config: DictConfig, parts: Parts) -> dict[str, Any]:
    """run.json: what a comparison has to know about a run."""
    model, flops = parts.model, parts.flops
    names = list(model.plugins)
    return {
        "id": run_id(config),
        "experiment": config.experiment,
        "seed": config.seed,
        "label": "+".join(names) or "plain",
        "plugins": names,
        "parameters": {
            "backbone": _count(model.backbone),
            "training_only": sum(_count(plugin) for plugin in model.plugins.values()),
        },
        "flops": {
            "forward_per_image": flops.forward,
            "train_per_image": flops.train,
            "relative_forward": flops.relative,
        },
        "device": {
            "kind": parts.meter.device.type,
            "name": _device_name(parts.meter.device),
            "count": ranks.world(),
        },
        "precision": config.trainer.precision,
        "cost": parts.meter.unit,
        "protocol": parts.protocol,
        "protocol_hash": short_hash(parts.protocol),
        "versions": versions(),
        "git": git_state(),
        "encoders": [_kin(name) for name in encoder_names(model.plan)],
        "feature_networks": parts.metrics.networks,
        "offline": {},
        "reference": {"floor": parts.metrics.floor(config.eval.samples)},
        "status": "running",
    }


def pick_device(accelerator: str) -> torch.device:
    """The device that "auto", "cpu" or "cuda" means here."""
    if accelerator not in ("auto", "cpu", "cuda"):
        raise DiffxError(f"trainer.accelerator={accelerator} is not known; type auto, cpu or cuda.")
    available = torch.cuda.is_available()
    if accelerator == "cuda" and not available:
        raise DiffxError("trainer.accelerator=cuda, but torch sees no GPU here; type trainer.accelerator=cpu.")
    return torch.device("cuda" if available and accelerator != "cpu" else "cpu")


def _check_budget_unit(config: DictConfig, meter: Meter) -> None:
    if config.budget and list(config.budget) != [meter.unit]:
        raise DiffxError(
            f"budget is given in {', '.join(config.budget)}, but this device is metered in {meter.unit}; "
            f"type budget.{meter.unit}= instead."
        )


def _checkpoint(config: DictConfig, run: RunDir, module: DiffusionModule) -> tuple[Path, int] | None:
    """The checkpoint to go on from and its step, after checking that it is of this model."""
    if config.resume == "never" or (config.resume == "auto" and not run.last_checkpoint.exists()):
        return None
    path = run.last_checkpoint if config.resume == "auto" else Path(config.resume)
    state = read_checkpoint(path)
    check_belongs(state, module, path)
    return path, int(state["global_step"])


def _length(config: DictConfig) -> dict[str, Any]:
    """How long a run is to be: what decides whether a complete run is complete."""
    return {"max_steps": config.max_steps, "budget": OmegaConf.to_container(config.budget) if config.budget else None}


def _trainer(config: DictConfig, meter: Meter, logger: WandbLogger | None, callbacks: list[L.Callback]) -> L.Trainer:
    """A Lightning trainer that leaves bars, checkpoints and samplers to diffx, and is silent."""
    for name in ("lightning.pytorch", "lightning.fabric", "lightning.pytorch.utilities.rank_zero"):
        logging.getLogger(name).setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", module="lightning.*")
    return L.Trainer(
        accelerator=meter.device.type,
        devices=config.trainer.devices,
        num_nodes=config.trainer.num_nodes,
        strategy="ddp" if ranks.world() > 1 else "auto",
        precision=config.trainer.precision,
        gradient_clip_val=config.trainer.gradient_clip_val,
        max_steps=config.max_steps,
        max_epochs=-1,
        logger=logger or False,
        callbacks=callbacks,
        enable_progress_bar=False,
        enable_checkpointing=False,
        enable_model_summary=False,
        use_distributed_sampler=False,
        num_sanity_val_steps=0,
    )


class _Batches:
    """A data object as torch's loader wants it: many indices at once."""

    def __init__(self, data: Any) -> None:
        self.data = data

    def __getitems__(self, indices: list[int]) -> dict[str, Tensor]:
        return self.data.batch(torch.as_tensor(indices))


def _loader(data: Any, batch_size: int, seed: int, start: int) -> DataLoader[Any]:
    """Batches from step `start` on, without an end: the steps and the budget say when to stop."""
    sampler = StepBatches(len(data), batch_size, seed, start, ranks.rank(), ranks.world())
    return DataLoader(_Batches(data), batch_sampler=sampler, collate_fn=lambda batch: batch)  # type: ignore[arg-type]


def _logger(config: DictConfig, run: RunDir, parts: Parts) -> WandbLogger | None:
    """The W&B run of this run directory; offline unless the user has a key."""
    if config.logger.name == "none" or not ranks.is_first():
        return None
    os.environ.setdefault("WANDB_SILENT", "true")
    logger = WandbLogger(
        project=config.logger.project,
        id=f"{run_id(config)}-s{config.seed}",
        name=f"{'+'.join(parts.model.plugins) or 'plain'} s{config.seed}",
        group=config.experiment,
        tags=list(parts.model.plugins) or ["plain"],
        save_dir=str(run.path),
        offline=not _online(config.logger.mode),
        config=OmegaConf.to_container(config),
    )
    logger.experiment.define_metric("train/*", step_metric="trainer/global_step")
    return logger


def _online(mode: str) -> bool:
    if mode not in ("auto", "online", "offline"):
        raise DiffxError(f"logger.mode={mode} is not known; type logger.mode=auto, online or offline.")
    return mode == "online" or (mode == "auto" and bool(os.environ.get("WANDB_API_KEY")))


def _kin(name: str) -> dict[str, str]:
    spec = encoder_spec(name)
    return {"name": name, "family": spec.family, "training": spec.training}


def _count(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def _device_name(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else platform.processor() or platform.machine()
