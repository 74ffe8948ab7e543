"""What a node with a _target_ describes: the object, made from its settings."""

import importlib
from collections.abc import Callable
from typing import Any

from omegaconf import DictConfig, OmegaConf

from diffx.errors import DiffxError


def make(node: DictConfig, **more: Any) -> Any:
    """The object that a node with a _target_ describes; `more` are arguments that no file can hold.

    Hydra's instantiate would do, but wraps every error of the class in its own.
    """
    settings = OmegaConf.to_container(node)
    assert isinstance(settings, dict)
    given = {str(key): value for key, value in settings.items() if key != "_target_"}
    try:
        return target_of(node)(**given, **more)
    except DiffxError:
        raise
    except (TypeError, ValueError, ArithmeticError, RuntimeError) as error:
        raise DiffxError(f"{node._target_} refuses its settings {given}: {error}") from error


def target_of(node: DictConfig, path: str = "") -> Callable[..., Any]:
    """What a node's _target_ names. Raises DiffxError where that cannot be imported."""
    module, _, name = str(node._target_).rpartition(".")
    try:
        return getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError, ValueError) as error:
        raise DiffxError(f"{path}._target_={node._target_} cannot be imported ({error}).") from error
