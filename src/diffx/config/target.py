"""What a node with a _target_ describes: the object, made from its settings."""

import importlib
import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from diffx.errors import DiffxError

# What moved before version 1: configurations of earlier runs name these, and are read as if they named the others.
MOVED = {
    "diffx.metrics.features.EmbeddedMetrics": "diffx.metrics.EmbeddedMetrics",
    "diffx.metrics.adm.ADMMetrics": "diffx.metrics.ADMMetrics",
    "diffx.data.digits.Digits": "diffx.data.Digits",
    "diffx.data.shapes.Shapes": "diffx.data.Shapes",
    "diffx.data.latents.Latents": "diffx.data.Latents",
    "diffx.sampler.RoutedGuidance": "diffx_plugins.tread.RoutedGuidance",
}


@dataclass(frozen=True)
class Node:
    """An object to be made: the name of its class, and the arguments that the settings give it.

    An argument is an attribute, as in settings.backbone.depth.
    """

    target: str
    arguments: Mapping[str, Any] = field(default_factory=dict)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") or name not in self.arguments:  # copy and pickle ask for names of their own
            raise AttributeError(name)
        return self.arguments[name]

    def get(self, name: str, otherwise: Any = None) -> Any:
        """An argument that may not be given."""
        return self.arguments.get(name, otherwise)


def make(node: Node, **more: Any) -> Any:
    """The object that a node describes; `more` are arguments that no file can hold.

    Raises:
        DiffxError: the class cannot be imported, or refuses its arguments.
    """
    try:
        return target_of(node)(**node.arguments, **more)
    except DiffxError:
        raise
    except (TypeError, ValueError, ArithmeticError, LookupError, RuntimeError) as error:
        raise DiffxError(f"{node.target} refuses its settings {dict(node.arguments)}: {error}") from error


def target_of(node: Node, path: str = "") -> Callable[..., Any]:
    """What a node's _target_ names. Raises DiffxError where that cannot be imported."""
    module, _, name = node.target.rpartition(".")
    try:
        return getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError, ValueError) as error:
        raise DiffxError(f"{path}._target_={node.target} cannot be imported ({error}).") from error


def defaults_of(node: Node) -> dict[str, Any]:
    """What a node's class takes for arguments that are not given."""
    target = target_of(node)
    parameters = inspect.signature(target).parameters.values()
    of_every_plugin = {"stop": target.stop} if hasattr(target, "stop") else {}
    return {p.name: p.default for p in parameters if p.default is not p.empty} | of_every_plugin
