"""The evaluation protocols of conf/eval and the averages of the weights, chosen for a run that is there already."""

from typing import TYPE_CHECKING, Any

from omegaconf import DictConfig, OmegaConf

from diffx.errors import DiffxError
from diffx.run.folder import RunDir

if TYPE_CHECKING:
    pass

from collections.abc import Sequence
from pathlib import Path

from diffx.config.check import check, unknown_key
from diffx.config.compose import compose_config

SECTIONS = ("eval", "sampler", "guidance")


def with_protocol(config: DictConfig, name: str | None, settings: Sequence[str] = ()) -> DictConfig:
    """A copy of a run's resolved configuration that samples and measures as `python -m diffx eval=NAME` does.

    name: a file of conf/eval; None keeps the run's own. settings: KEY=VALUE on top, of eval, sampler and guidance, and
    trainer.accelerator.

    Raises:
        DiffxError: an unknown protocol or setting, or a value that cannot be.
    """
    changed = OmegaConf.create(OmegaConf.to_container(config))
    assert isinstance(changed, DictConfig)
    if name is not None:
        chosen = compose_config([f"eval={name}", f"data.image_size={config.data.image_size}"])
        for section in SECTIONS:
            changed[section] = chosen[section]
    known = [f"{section}.{key}" for section in SECTIONS for key in changed[section] if key != "_target_"]
    known += [f"eval.metrics.{key}" for key in changed.eval.metrics if key != "_target_"]
    known.append("trainer.accelerator")
    for setting in settings:
        key, equals, _ = setting.partition("=")
        if not equals or key not in known:
            raise DiffxError(unknown_key(key, known))
        changed.merge_with(OmegaConf.from_dotlist([setting]))
    check(changed)
    return changed


def read_config(run: Path) -> DictConfig:
    """The configuration of a run directory. Raises DiffxError where it has none."""
    file = run / "config.yaml"
    if not file.exists():
        raise DiffxError(f"{run} is no run directory: it has no config.yaml; type runs/EXPERIMENT/ID/sSEED.")
    config = OmegaConf.load(file)
    assert isinstance(config, DictConfig)
    return config


def with_ema(config: DictConfig, run: RunDir, decay: float | None) -> tuple[DictConfig, Path]:
    """A copy of a run's configuration that is about the average of this decay, and the file of its weights.

    decay: None is the run's ema_decay, by which it is measured in training.

    Raises:
        DiffxError: the run keeps no such average.
    """
    main, more = config.ema_decay, config.get("more_ema_decays") or []
    if decay is None or decay == main:
        return config, run.ema_weights
    if decay not in more:
        kept = ", ".join(f"{known:g}" for known in (main, *more))
        raise DiffxError(
            f"--ema {decay:g}: {run.path} keeps the averages {kept}; type one of them. A run that is trained with "
            f"more_ema_decays=[{decay:g}] keeps this one too."
        )
    changed = config.copy()
    changed.ema_decay, changed.more_ema_decays = decay, []
    return changed, run.more_ema_weights(decay)


def protocol(config: DictConfig, data_identity: str, metrics_identity: str) -> dict[str, Any]:
    """All that moves a metric and is not the model, as plain data."""
    sampler = OmegaConf.to_container(config.sampler)
    return {
        "labels": config.eval.labels,
        "sampler": sampler,
        "guidance": OmegaConf.to_container(config.guidance),
        "decoder": config.data.decoder,
        "rounding": config.eval.get("rounding", "nearest"),
        "ema_decay": config.ema_decay,
        "samples": config.eval.samples,
        "seed": config.eval.seed,
        "features": metrics_identity,
        "reference": data_identity,
    }
