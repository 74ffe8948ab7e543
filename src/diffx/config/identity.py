"""What a run is, as plain data: every setting that differs from its default and makes the run another one.

Settings at their default are left out, so that a setting that diffx learns later changes the name of no earlier run.
"""

from collections.abc import Mapping
from dataclasses import MISSING, Field, fields
from typing import Any

from diffx.config.target import Node, defaults_of
from diffx.run.name import is_part_of_a_run


def identity(settings: Any, path: str = "") -> dict[str, Any]:
    """Of an object of diffx.config.settings; `path` is its dotted name."""
    found: dict[str, Any] = {}
    for entry in fields(settings):
        name = f"{path}.{entry.name}".lstrip(".")
        value = getattr(settings, entry.name)
        if is_part_of_a_run(name) and not _is_default(value, entry):
            found[entry.name] = _plain(value, name)
    return {key: value for key, value in found.items() if value != {}}


def _is_default(value: Any, entry: "Field[Any]") -> bool:
    return entry.default is not MISSING and value == entry.default


def _plain(value: Any, name: str) -> Any:
    if isinstance(value, Node):
        return _of_node(value, name)
    if isinstance(value, Mapping):
        return {key: _plain(inner, f"{name}.{key}") for key, inner in value.items()}
    if hasattr(value, "__dataclass_fields__"):
        return identity(value, name)
    return _number(value)


def _of_node(node: Node, name: str) -> dict[str, Any]:
    defaults = {} if name == "optimizer" else defaults_of(node)  # torch's defaults are its own, and may change
    given = {
        key: _number(value)
        for key, value in node.arguments.items()
        if is_part_of_a_run(f"{name}.{key}") and not (key in defaults and _number(defaults[key]) == _number(value))
    }
    return {"_target_": node.target, **given}


def _number(value: Any) -> Any:
    """1.0 and 1 are one setting."""
    if isinstance(value, list | tuple):
        return [_number(entry) for entry in value]
    return int(value) if isinstance(value, float) and value.is_integer() else value
