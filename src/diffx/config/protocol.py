"""The evaluation protocols of conf/eval and the averages of the weights, chosen for a run that is there already."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from diffx.config.compose import compose_config
from diffx.config.parse import first_line, tree_of
from diffx.config.read import settings_of
from diffx.config.settings import EvalSettings, Settings
from diffx.errors import DiffxError, unknown_key
from diffx.processes.devices import pick_device
from diffx.run.folder import RunDir
from diffx.store.sealed import facts_of

SECTIONS = ("eval", "sampler", "guidance")
KINDS = ("sampler", "guidance")
"""Settings that name a file of conf/, and with it a class: sampler=heun."""


def with_protocol(settings: Settings, name: str | None, changes: Sequence[str] = ()) -> Settings:
    """A run's settings, but that it samples and measures as `python -m diffx eval=NAME` does.

    name: a file of conf/eval; None keeps the run's own. Where it is measured by the same metrics, those keep the run's
    settings (reference=own, dinov2=null); samples are decoded as the run's are, and guided away from the same words,
    unless the protocol names others.
    changes: KEY=VALUE on top: sampler=NAME and guidance=NAME, then settings of eval, sampler and guidance, and
    trainer.accelerator.

    Raises:
        DiffxError: an unknown protocol or setting, or a value that cannot be.
    """
    if name is not None:
        chosen = compose_config([f"eval={name}", f"data.image_size={settings.data.image_size}"])
        decoder = chosen.eval.decoder or settings.eval.decoder
        negative = settings.eval.negative if chosen.eval.negative is None else chosen.eval.negative
        metrics = _own_metrics(chosen.eval, settings.eval)
        chosen = replace(chosen, eval=replace(metrics, decoder=decoder, negative=negative))
        settings = replace(settings, **{section: getattr(chosen, section) for section in SECTIONS})
    if kinds := [change for change in changes if change.partition("=")[0] in KINDS]:
        chosen = compose_config(kinds)
        named = [change.partition("=")[0] for change in kinds]
        settings = replace(settings, **{kind: getattr(chosen, kind) for kind in named})
    changed = OmegaConf.create(tree_of(settings))
    assert isinstance(changed, DictConfig)
    known = [f"{section}.{key}" for section in SECTIONS for key in changed[section] if key != "_target_"]
    known += [f"eval.metrics.{key}" for key in changed.eval.metrics if key != "_target_"]
    known += ["trainer.accelerator", *KINDS]
    for change in [change for change in changes if change not in kinds]:
        key, equals, _ = change.partition("=")
        if not equals or key not in known:
            raise DiffxError(unknown_key(key, known))
        try:
            changed.merge_with(OmegaConf.from_dotlist([change]))
        except (OmegaConfBaseException, ValueError) as error:
            raise DiffxError(f"{change} cannot be read ({first_line(error)}).") from error
    return settings_of(changed)


def _own_metrics(chosen: EvalSettings, own: EvalSettings) -> EvalSettings:
    """A protocol with the metrics of the run's evaluations, where both are of one kind: what they are compared with
    and in which networks is what the run was set up for."""
    return replace(chosen, metrics=own.metrics) if own.metrics.target == chosen.metrics.target else chosen


def with_ema(settings: Settings, run: RunDir, decay: float | None) -> tuple[Settings, Path]:
    """A run's settings, but that they are about the average of this decay, and the file of its weights.

    decay: None is the run's ema_decay, by which it is measured in training.

    Raises:
        DiffxError: the run keeps no such average, or the file is another run's.
    """
    main, more = settings.ema_decay, settings.more_ema_decays
    if decay is None or decay == main:
        _refuse_weights_of_another(run.ema_weights, run)
        return settings, run.ema_weights
    if decay not in more:
        kept = ", ".join(f"{known:g}" for known in (main, *more))
        raise DiffxError(
            f"--ema {decay:g}: {run.path} keeps the averages {kept}; type one of them. A run that is trained with "
            f"more_ema_decays=[{decay:g}] keeps this one too."
        )
    _refuse_weights_of_another(run.more_ema_weights(decay), run)
    return replace(settings, ema_decay=decay, more_ema_decays=()), run.more_ema_weights(decay)


def _refuse_weights_of_another(weights: Path, run: RunDir) -> None:
    """Raises DiffxError where weights say that they are of another run than the folder that they lie in."""
    record = run.read_record()
    own = f"{record.get('id')}/s{record.get('seed')}"
    if weights.exists() and record and (of := facts_of(weights).get("run")) and of != own:
        raise DiffxError(f"{weights} is of run {of} and lies in the folder of {own}; put the file of this run there.")


def precision_of(settings: Settings) -> str:
    """The arithmetic of sampling and decoding: "auto" is tf32 on a GPU, as published numbers were sampled, else 32.

    Raises:
        DiffxError: tf32 without a GPU.
    """
    chosen, on_gpu = settings.eval.precision, pick_device(settings.trainer.accelerator).type == "cuda"
    if chosen == "tf32" and not on_gpu:
        raise DiffxError("eval.precision=tf32 is for GPUs; type eval.precision=auto, bf16 or 32.")
    return ("tf32" if on_gpu else "32") if chosen == "auto" else chosen


def protocol(
    settings: Settings, data_identity: str, metrics_identity: str, prompts: str | None = None
) -> dict[str, Any]:
    """All that moves a metric and is not the model, as plain data. prompts: a hash of those of the samples, where there
    are any.

    The precision is what "auto" means on this device, since that is what moves a metric; float32 is left out, as it was
    before there was another, so that its protocols keep their hashes.
    """
    precision = precision_of(settings)
    return {
        **({} if precision == "32" else {"precision": precision}),
        **({} if prompts is None else {"prompts": prompts, "negative": settings.eval.negative}),
        "labels": settings.eval.labels,
        "sampler": tree_of(settings.sampler),
        "guidance": tree_of(settings.guidance),
        "decoder": settings.decoder,
        "rounding": settings.eval.rounding,
        **({} if settings.ema_length is None else {"ema_length": settings.ema_length}),
        "ema_decay": settings.ema_decay if settings.ema_length is None else None,
        "samples": settings.eval.samples,
        "seed": settings.eval.seed,
        "features": metrics_identity,
        "reference": data_identity,
    }
