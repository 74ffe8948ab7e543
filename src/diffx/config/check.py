"""From a configuration to the objects of a run, refusing what does not fit before anything is written."""

import difflib
import inspect
import math
from collections.abc import Iterator
from types import NoneType, UnionType
from typing import Any, get_args

from omegaconf import DictConfig, ListConfig, OmegaConf

from diffx.config.target import target_of
from diffx.errors import DiffxError

COMPILE = ("none", "blocks", "step")
PRECISIONS = ("32-true", "bf16-mixed", "16-mixed")
STRATEGIES = ("ddp", "fsdp")
NUMBER = (int, float)
# What settings outside any class may be: their kinds, the least value, and what they stay below.
RANGES: dict[str, tuple[tuple[type, ...], float, float]] = {
    "seed": ((int,), 0, 2**32),
    "batch_size": ((int,), 1, math.inf),
    "max_steps": ((int,), 1, math.inf),
    "log_every": ((int,), 1, math.inf),
    "label_dropout": (NUMBER, 0, 1),
    "ema_decay": (NUMBER, 0, 1),
    "checkpoint_minutes": (NUMBER, 0, math.inf),
    "max_skipped_steps": ((int,), 1, math.inf),
    "sweep_jobs": ((int, NoneType), 1, math.inf),
    "eval.first": (NUMBER, 1, math.inf),
    "eval.per_doubling": (NUMBER, 1e-3, math.inf),
    "eval.samples": ((int,), 2, math.inf),
    "eval.batch_size": ((int,), 1, math.inf),
    "eval.seed": ((int,), 0, 2**32),
    "data.workers": ((int,), 0, math.inf),
    "trainer.devices": ((int,), 1, math.inf),
    "trainer.num_nodes": ((int,), 1, math.inf),
    "trainer.accumulate": ((int,), 1, math.inf),
    "trainer.activation_checkpointing": ((bool,), 0, math.inf),
    "trainer.threads": ((int, NoneType), 1, math.inf),
    "trainer.gradient_clip_val": ((int, float, NoneType), 0, math.inf),
}


def check(config: DictConfig) -> None:
    """Refuse unknown settings and values out of range, naming the key and what to type."""
    for path, node in _targets(config):
        _check_arguments(path, node)
    for key, (kinds, least, below) in RANGES.items():
        value = OmegaConf.select(config, key)
        if type(value) not in kinds or not (value is None or (least <= value < below)):
            wanted = " or ".join("null" if kind is NoneType else kind.__name__ for kind in kinds)
            upper = "" if below == math.inf else f" and below {below}"
            raise DiffxError(f"{key}={value} must be {wanted}, at least {least}{upper}.")
    if config.compile not in COMPILE:
        raise DiffxError(f"compile={config.compile} is not known; type compile= one of {', '.join(COMPILE)}.")
    if config.trainer.precision not in PRECISIONS:
        raise DiffxError(
            f"trainer.precision={config.trainer.precision} is not known; type one of {', '.join(PRECISIONS)}."
        )
    if config.trainer.strategy not in STRATEGIES:
        raise DiffxError(f"trainer.strategy={config.trainer.strategy} is not known; type ddp or fsdp.")
    _check_together(config)
    _check_ema_decays(config)
    _check_budget(config.budget)


def _check_together(config: DictConfig) -> None:
    """Settings that do not go with each other."""
    if config.trainer.strategy == "fsdp" and config.trainer.precision == "16-mixed":
        raise DiffxError("trainer.strategy=fsdp does not go with 16-mixed; type trainer.precision=bf16-mixed.")
    if config.trainer.strategy == "fsdp" and config.compile == "step":
        raise DiffxError("trainer.strategy=fsdp gathers weights between blocks; type compile=blocks.")
    if config.optimizer.get("fused") and config.trainer.precision == "16-mixed":
        raise DiffxError(
            "trainer.precision=16-mixed scales gradients, which a fused optimizer hides from clipping; "
            "type optimizer.fused=false."
        )


def _check_ema_decays(config: DictConfig) -> None:
    more = config.more_ema_decays
    if not isinstance(more, ListConfig) or not all(isinstance(d, int | float) and 0 <= d < 1 for d in more):
        raise DiffxError(f"more_ema_decays={more} must be numbers below 1; type for instance more_ema_decays=[0.999].")
    if len({config.ema_decay, *more}) < 1 + len(more):
        raise DiffxError(f"ema_decay={config.ema_decay} and more_ema_decays={list(more)} name an average twice.")


def _check_budget(budget: Any) -> None:
    if budget is None:
        return
    if not isinstance(budget, DictConfig):
        raise DiffxError(f"budget={budget!r} has no unit; type 'budget={{cpu_hours: {budget!r}}}' or gpu_hours.")
    for key, hours in budget.items():
        unit = str(key)
        if unit not in ("cpu_hours", "gpu_hours"):
            raise DiffxError(f"budget.{unit} is not known; type budget.cpu_hours or budget.gpu_hours.")
        if not isinstance(hours, int | float) or not math.isfinite(hours) or hours <= 0:
            raise DiffxError(f"budget.{unit}={hours} must be a positive number of hours; type budget.{unit}=1.")


def _targets(node: Any, path: str = "") -> Iterator[tuple[str, DictConfig]]:
    """Every node with a _target_, and its path."""
    if not isinstance(node, DictConfig):
        return
    if "_target_" in node:
        yield path, node
    for key in node:
        if not OmegaConf.is_missing(node, key):
            yield from _targets(node[key], f"{path}.{key!s}".lstrip("."))


def _check_arguments(path: str, node: DictConfig) -> None:
    """Every key of the node is an argument of its class."""
    known = inspect.signature(target_of(node, path)).parameters
    if any(p.kind is p.VAR_KEYWORD for p in known.values()):
        return
    for key, value in node.items():
        if str(key).startswith("_"):
            continue
        if key not in known:
            raise DiffxError(unknown_key(f"{path}.{key!s}", [f"{path}.{name}" for name in known]))
        _check_kind(f"{path}.{key!s}", value, known[str(key)].annotation)


def _check_kind(key: str, value: Any, annotation: Any) -> None:
    """Refuse a word where a class asks for a number, and the like; annotations that say more are left to the class."""
    kinds = set(get_args(annotation)) if isinstance(annotation, UnionType) else {annotation}
    if not kinds <= {int, float, str, bool, NoneType}:
        return
    fits = type(value) in kinds or (type(value) is int and float in kinds)
    if not fits:
        wanted = " or ".join(sorted("null" if kind is NoneType else kind.__name__ for kind in kinds))
        raise DiffxError(f"{key}={value} has the wrong kind; type {wanted}.")


def unknown_key(key: str, known: list[str]) -> str:
    """The sentence for a setting that does not exist, with the nearest ones."""
    near = difflib.get_close_matches(key, known, n=3, cutoff=0.5)
    hint = f"did you mean {' or '.join(near)}?" if near else f"there are: {', '.join(known)}."
    return f"{key} is not a setting; {hint}"
