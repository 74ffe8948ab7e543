"""Settings against the classes that they are for, and against each other."""

import inspect
from types import NoneType, UnionType
from typing import Any, get_args

from diffx.config.parse import nodes_of
from diffx.config.settings import Settings
from diffx.config.target import Node, target_of
from diffx.errors import DiffxError, unknown_key


def check(settings: Settings) -> None:
    """Refuse arguments that no class takes, and settings that do not go with each other."""
    for path, node in nodes_of(settings):
        _check_arguments(path, node)
    _check_together(settings)


def _check_arguments(path: str, node: Node) -> None:
    """Every setting of a node is an argument of its class, and of its kind."""
    known = inspect.signature(target_of(node, path)).parameters
    if any(p.kind is p.VAR_KEYWORD for p in known.values()):
        return
    for key, value in node.arguments.items():
        if key not in known:
            raise DiffxError(unknown_key(f"{path}.{key}", [f"{path}.{name}" for name in known]))
        _check_kind(f"{path}.{key}", value, known[key].annotation)


def _check_kind(key: str, value: Any, annotation: Any) -> None:
    """Refuse a word where a class asks for a number, and the like; annotations that say more are left to the class."""
    kinds = set(get_args(annotation)) if isinstance(annotation, UnionType) else {annotation}
    if not kinds <= {int, float, str, bool, NoneType}:
        return
    fits = type(value) in kinds or (type(value) is int and float in kinds)
    if not fits:
        wanted = " or ".join(sorted("null" if kind is NoneType else kind.__name__ for kind in kinds))
        raise DiffxError(f"{key}={value} has the wrong kind; type {wanted}.")


def _check_together(settings: Settings) -> None:
    """Refuse settings that do not go with each other."""
    trainer = settings.trainer
    if trainer.strategy == "fsdp" and trainer.precision == "16-mixed":
        raise DiffxError("trainer.strategy=fsdp does not go with 16-mixed; type trainer.precision=bf16-mixed.")
    if trainer.strategy == "fsdp" and settings.compile == "step":
        raise DiffxError("trainer.strategy=fsdp gathers weights between blocks; type compile=blocks.")
    if settings.optimizer.get("fused") and trainer.precision == "16-mixed":
        raise DiffxError(
            "trainer.precision=16-mixed scales gradients, which a fused optimizer hides from clipping; "
            "type optimizer.fused=false."
        )
    more = settings.more_ema_decays
    if len({settings.ema_decay, *more}) < 1 + len(more):
        raise DiffxError(f"ema_decay={settings.ema_decay} and more_ema_decays={list(more)} name an average twice.")
    if settings.budget and not settings.budget.hours:
        raise DiffxError("budget={} says nothing; type 'budget={cpu_hours: 1}', gpu_hours, or budget=null.")
