"""One training run, from its settings to its run directory."""

import datetime
from collections.abc import Iterable, Mapping
from contextlib import nullcontext, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import lightning as L
from lightning.pytorch.loggers import Logger
from rich.console import Console

from diffx import ranks
from diffx.assemble.model import make_optimizer
from diffx.assemble.parts import Parts, assemble
from diffx.assemble.plan_table import plan_table
from diffx.assemble.record import describe_run
from diffx.checkpoint.native import read_checkpoint
from diffx.checkpoint.post_hoc import LENGTHS
from diffx.config.parse import tree_of, yaml_of
from diffx.config.settings import LearningRateSettings, Settings
from diffx.config.target import make
from diffx.curves.prune import Pruning
from diffx.data.stream import stream_of
from diffx.errors import DiffxError, Diverged, Stopped
from diffx.evaluation.evaluation import Evaluation
from diffx.processes.arithmetic import set_tf32
from diffx.processes.devices import join_processes, write_cost
from diffx.run.folder import RunDir
from diffx.run.forecast import Forecast
from diffx.run.sink import Sink, WandbRun, make_logger, open_sink
from diffx.schedule import LearningRate
from diffx.store.bounded import GB
from diffx.train.callbacks import Agreement, Checkpoints, Clock, Ending, Evaluations, Interruption, Snapshots, Stop
from diffx.train.checkpoint import checkpoint_to_go_on_from
from diffx.train.clock import Meter, peak_memory
from diffx.train.guard import GuardCheck
from diffx.train.loader import make_loader
from diffx.train.module import AfterStep, DiffusionModule
from diffx.train.progress import Progress
from diffx.train.trainer import make_trainer

PATIENCE = datetime.timedelta(minutes=30)  # of ranks for each other: one that hangs must not keep a cluster for days

console = Console(highlight=False)


def train(settings: Settings) -> RunDir:
    """Train as configured, or go on where this run stopped, or say that it is complete; returns its directory.

    Raises:
        DiffxError: bad settings, no data, a checkpoint of another model, a full disk. What can be refused is refused
            before the first file is written.
        Diverged: losses, samples or measures are not finite any more.
        Stopped: a signal came, and the run was saved.
    """
    join_processes(settings.trainer.accelerator, PATIENCE)
    set_tf32(settings.trainer.precision == "tf32")
    run = RunDir.of(settings)
    if settings.resume == "auto" and run.read_record().get("finished_with") == settings.length:
        console.print(f"{run.path} is complete already; type resume=never to train it anew.")
        return run
    if settings.resume == "auto" and settings.sweep_prune and run.read_record().get("status") == "pruned":
        console.print(f"{run.path} was pruned; type sweep_prune=null to go on with it.")
        return run
    before = run.progress()
    parts = assemble(settings)
    fit = _prepare(settings, run, parts)
    plan = plan_table(parts.model.backbone, parts.model.plugins, parts.model.plan, parts.flops)
    facts = describe_run(settings, parts)
    with run.held() if ranks.is_first() else nullcontext():
        if ranks.is_first():
            if run.progress() != before:
                raise DiffxError(f"Another process has trained {run.path} meanwhile; type the same command again.")
            _begin(settings, run, fit, plan, facts)
        logger = Sink(fit.logger) if fit.logger else open_sink(_in_wandb(settings, run, plan))
        try:
            _train(settings, run, parts, fit, logger)
        finally:
            logger.finish()
    return run


@dataclass(frozen=True)
class Fit:
    """What trains a run, built before its first file is written. path, step: the checkpoint to go on from, if any."""

    module: DiffusionModule
    trainer: L.Trainer
    loader: Iterable[Any]
    clock: Clock
    progress: Progress
    evaluation: Evaluation
    evaluations: Evaluations
    ending: Ending
    interruption: Interruption
    logger: Logger | None
    path: Path | None
    step: int


def _prepare(settings: Settings, run: RunDir, parts: Parts) -> Fit:
    """Build all that may refuse: the checkpoint, the evaluations, the trainer, the order of the data."""
    meter = Meter(parts.device, ranks.world())
    module = make_module(settings, parts, meter)
    module.run = settings.name
    path, step = checkpoint_to_go_on_from(settings, run, module, meter) or (None, 0)
    budget = settings.budget.hours[meter.unit] if settings.budget else None
    interruption, clock = Interruption(), Clock(meter, budget)
    pruning = Pruning(run, settings.sweep_prune, settings.sweep_metric, meter.unit)
    stop = Stop(clock, interruption, pruning, settings.log_every)
    guard = GuardCheck(settings.log_every)
    evaluation = Evaluation(settings, run, parts)
    evaluations = Evaluations(evaluation, meter, settings.eval.first, settings.eval.per_doubling, pruning)
    forecast = Forecast(settings.max_steps, budget, evaluations.steps)
    progress = Progress(meter, settings.log_every, settings.batch_size, forecast)
    evaluation.watch, evaluations.told = progress.watch_evaluation, progress.after_evaluation
    minutes, share = settings.checkpoint_minutes, settings.checkpoint_share
    checkpoints = Checkpoints(run, meter, minutes, share, last_is_good=path != run.previous_checkpoint)
    ending = Ending(checkpoints, evaluations, stop)
    module.after = AfterStep(
        clock, stop, guard, progress, evaluations, checkpoints, Snapshots(run, meter, settings.snapshot_steps)
    )
    acts = [Agreement(run.path), ending, progress, clock]
    trainer = make_trainer(settings, parts.device, acts, module.backbone)
    loader = make_loader(settings, parts.data, step, meter)
    logger = _logger(settings, run, step)
    return Fit(
        module, trainer, loader, clock, progress, evaluation, evaluations, ending, interruption, logger, path, step
    )


def _logger(settings: Settings, run: RunDir, step: int) -> Logger | None:
    """The first rank's logger, but for W&B's, whose run is begun after the folder."""
    chosen = settings.logger
    if not ranks.is_first() or chosen.name in ("wandb", "none"):
        return None
    own = None if chosen.lightning is None or chosen.name != "lightning" else partial(make, chosen.lightning)
    return make_logger(chosen.name, run.path, step, own)


def make_module(settings: Settings, parts: Parts, meter: Meter) -> DiffusionModule:
    """The LightningModule of these parts."""
    if settings.compile != "none":
        for service in parts.services.values():
            if hasattr(service, "compile"):
                service.compile()
    return DiffusionModule(
        parts.model,
        partial(make_optimizer, settings.optimizer),
        {name: meter.timed("encoder", service) for name, service in parts.services.items()},
        seed=settings.seed,
        label_dropout=settings.label_dropout,
        ema_decay=settings.ema_decay,
        more_ema_decays=settings.more_ema_decays,
        powers=LENGTHS if settings.snapshot_steps else (),
        learning_rate=_learning_rate(settings.learning_rate),
        skip_limit=settings.max_skipped_steps,
        compile=settings.compile,
        stream=settings.trainer.stream,
        fused=settings.trainer.fused,
        fp8=settings.trainer.precision == "fp8",
        activation_checkpointing=settings.trainer.activation_checkpointing,
        shard=settings.trainer.strategy == "fsdp" and ranks.world() > 1,
        end_to_end=parts.end_to_end,
    )


def _learning_rate(chosen: LearningRateSettings) -> LearningRate | None:
    """None where it is the optimizer's at every step."""
    return None if chosen == LearningRateSettings() else LearningRate(**vars(chosen))


def _begin(settings: Settings, run: RunDir, fit: Fit, plan: str, facts: Mapping[str, Any]) -> None:
    """Write what a run's folder says from its first step on."""
    if fit.path is None:
        run.start_anew()
    run.create(yaml_of(settings), plan)
    run.write_record(**facts, reason=None, diverged_at=None)
    run.forget_after(fit.step)
    print(plan, flush=True)
    if fit.path:
        console.print(f"going on from step {fit.step} ({fit.path})")


def _in_wandb(settings: Settings, run: RunDir, plan: str) -> WandbRun | None:
    """How W&B shows this run, if it is to."""
    if settings.logger.name != "wandb" or not ranks.is_first():
        return None
    return WandbRun(
        id=f"{settings.group}-{settings.name}",
        name=f"{settings.title or settings.label} s{settings.seed}",
        group=settings.group,
        tags=list(settings.plugins) or ["plain"],
        project=settings.logger.project,
        mode=settings.logger.mode,
        folder=run.path,
        facts={**tree_of(settings), "study": settings.group, "plan": plan, "record": run.read_record()},
    )


def _train(settings: Settings, run: RunDir, parts: Parts, fit: Fit, logger: Sink) -> None:
    """Train to the end of the steps or of the budget, evaluate, and keep run.json truthful about how it ended."""
    fit.evaluation.logger = fit.progress.logger = logger
    fit.evaluations.done = run.last_point(fit.step) if fit.path else -1
    step = fit.step
    try:
        with fit.interruption:
            if fit.path and (step >= settings.max_steps or fit.clock.spent):
                _evaluate_alone(fit, parts)
            else:
                checkpoint = fit.path and str(fit.path)
                fit.trainer.fit(fit.module, fit.loader, ckpt_path=checkpoint, weights_only=True)
                step = fit.trainer.global_step
    except BaseException as error:
        with suppress(Exception):  # what broke is said already, and the interpreter waits for the writer in any case
            fit.ending.checkpoints.finish()
        if ranks.is_first():
            with suppress(DiffxError):  # the disk may be why
                run.write_record(**_how_it_broke(error), clock=fit.clock.meter.seconds)
        raise
    fetched = _fetched(parts, run)
    if ranks.is_first():
        _close(settings, run, step, fit, fetched)


def _fetched(parts: Parts, run: RunDir) -> float | None:
    """GB that all ranks have fetched of a data set behind a URL, with what run.json has of before; None: it is here."""
    stream = stream_of(parts.data)
    if stream is None or not stream.is_remote:
        return None
    return sum(ranks.everyones(stream.fetched)) / GB + run.read_record().get("fetched_gb", 0.0)


def _how_it_broke(error: BaseException) -> dict[str, Any]:
    """Status and reason for run.json."""
    if isinstance(error, Diverged):
        return {"status": "diverged", "diverged_at": error.step, "reason": str(error)}
    interrupted = isinstance(error, KeyboardInterrupt | SystemExit)
    return {"status": "interrupted" if interrupted else "failed", "reason": str(error) or type(error).__name__}


def _evaluate_alone(fit: Fit, parts: Parts) -> None:
    """A run that was stopped after its last step, before its last evaluation."""
    assert fit.path is not None
    fit.module.load_state_dict(read_checkpoint(fit.path)["state_dict"])
    fit.module.to(parts.device)
    fit.evaluations.run(fit.module, fit.step)


def _close(settings: Settings, run: RunDir, step: int, fit: Fit, fetched: float | None) -> None:
    """Write how the run ended and what it took, and say so."""
    meter = fit.clock.meter
    seconds = meter.seconds["train"]
    measured = {
        "clock": meter.seconds,
        "train_parts": meter.parts,
        "samples_per_second": step * settings.batch_size / seconds if seconds else 0.0,
        "peak_memory_bytes": peak_memory(meter.device),
        "skipped_steps": int(fit.module.guard.skipped),
        "fetched_gb": fetched,
    }
    if fit.ending.interrupted:
        run.write_record(status="interrupted", **measured)
        how = "" if settings.resume == "auto" else " with resume=auto"
        message = f"Stopped at step {step} and saved in {run.path}; type the same command again{how} to go on."
        raise Stopped(message, requeue=fit.interruption.received == "SIGUSR1")
    if fit.ending.pruned:
        reason = fit.evaluations.pruning.reason
        run.write_record(status="pruned", reason=reason, **measured)
        console.print(f"pruned: {reason}; saved in {run.path}", soft_wrap=True)
        return
    run.write_record(status="complete", finished_with=settings.length, **measured)
    cost = write_cost(meter.hours, meter.unit)
    console.print(f"done: {step} steps, {cost} of training, everything is in {run.path}", soft_wrap=True)
