"""From plain data to typed Settings and back: kinds, ranges and choices, without importing anything that is named."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, Field, fields, is_dataclass
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, TypeVar, get_args, get_origin, get_type_hints

import torch
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from diffx.config.settings import Settings
from diffx.config.target import MOVED, Node
from diffx.errors import DiffxError, unknown_key
from diffx.objective.times import dimension_shift
from diffx.store.remote import is_url
from diffx.store.whole_file import write_text

LABELLED, CAPTIONED = 65_536, 8_192
"""What data.source.window=null means where the root is a URL. Labelled images are stored by class, so that more have to
be mixed; encoded captions are large (2.7 MB of CLIP-L and T5-XXL), and come in no such order."""
Tree = dict[str, Any]
Kind = TypeVar("Kind")


def parse(config: DictConfig) -> Settings:
    """The settings that a composed or a stored configuration holds; what it leaves out is as in the schema. No class
    that it names is imported.

    Raises:
        DiffxError: an unknown setting, one of the wrong kind or out of range.
    """
    settings: Settings = _object(Settings, _with_choices_made(_plain(config)), "")
    return settings


def typed(kind: type[Kind], words: Sequence[str]) -> Kind:
    """An object of a dataclass of settings from words NAME=VALUE. Raises DiffxError as parse() does."""
    tree = OmegaConf.to_container(OmegaConf.from_dotlist(list(words)))
    made: Kind = _object(kind, tree, "")
    return made


def yaml_of(settings: Settings) -> str:
    """All settings as YAML, which parse() reads back."""
    return OmegaConf.to_yaml(OmegaConf.create(tree_of(settings)))


def write_settings(settings: Settings, file: Path) -> Path:
    """Write yaml_of(settings)."""
    return write_text(file, yaml_of(settings))


def tree_of(value: Any) -> Any:
    """Settings as plain data, a node's class under _target_."""
    if isinstance(value, Node):
        return {"_target_": value.target, **tree_of(value.arguments)}
    if is_dataclass(value):
        return {entry.name: tree_of(getattr(value, entry.name)) for entry in fields(value)}
    if isinstance(value, Mapping):
        return {str(key): tree_of(inner) for key, inner in value.items()}
    return [tree_of(inner) for inner in value] if isinstance(value, list | tuple) else value


def nodes_of(value: Any, path: str = "") -> list[tuple[str, Node]]:
    """Every node, with its dotted name."""
    if isinstance(value, Node):
        return [(path, value)]
    if is_dataclass(value):
        value = {entry.name: getattr(value, entry.name) for entry in fields(value)}
    if not isinstance(value, Mapping):
        return []
    return [found for key, inner in value.items() for found in nodes_of(inner, f"{path}.{key}".lstrip("."))]


def _plain(config: DictConfig) -> Tree:
    """Every interpolation replaced. Raises DiffxError where one leads nowhere."""
    try:
        tree = OmegaConf.to_container(config, resolve=True, throw_on_missing=True)
    except OmegaConfBaseException as error:
        if "data.text." in str(error):
            raise DiffxError(
                f"The backbone is conditioned by text, and data={config.data.name} has classes; type data=captions, or "
                "backbone=tiny."
            ) from error
        raise DiffxError(f"The configuration cannot be resolved: {first_line(error)}.") from error
    assert isinstance(tree, dict)
    return {str(key): value for key, value in tree.items() if key != "hydra"}


def _with_choices_made(tree: Tree) -> Tree:
    """What "auto" means on this machine and for this data, and no plugins as no plugins."""
    trainer = tree.get("trainer")
    if isinstance(trainer, dict):
        gpus = torch.cuda.device_count() if trainer.get("accelerator") != "cpu" and torch.cuda.is_available() else 0
        meant = {"precision": "bf16-mixed" if gpus else "32-true", "devices": max(gpus, 1)}
        tree["trainer"] = {key: meant.get(key, value) if value == "auto" else value for key, value in trainer.items()}
        if tree.get("compile") == "auto":
            tree["compile"] = "blocks" if gpus else "none"
    for name in ("objective", "sampler"):
        node, data = tree.get(name), tree.get("data")
        if isinstance(node, dict) and node.get("shift") == "auto" and isinstance(data, dict):
            tree[name] = {**node, "shift": _dimension_shift(data)}
    if isinstance(data := tree.get("data"), dict):
        tree["data"] = _with_a_window(data)
    tree["plugins"] = tree.get("plugins") or {}
    return tree


def _with_a_window(data: Tree) -> Tree:
    """With what data.source.window=null means of a URL. It is part of what a run is, and its root is not."""
    source = data.get("source")
    if not isinstance(source, dict) or not is_url(source.get("root")) or source.get("window", 0) is not None:
        return data
    return {**data, "source": {**source, "window": CAPTIONED if data.get("text") else LABELLED}}


def _dimension_shift(data: Tree) -> float:
    """What objective.shift=auto means; sizes that are none are refused where they are read."""
    channels, size = data.get("channels"), data.get("size")
    return dimension_shift(channels, size, size) if isinstance(channels, int) and isinstance(size, int) else 1.0


def _object(kind: type, tree: Any, path: str) -> Any:
    """An object of one of the dataclasses of diffx.config.settings."""
    entries, hints = {entry.name: entry for entry in fields(kind)}, get_type_hints(kind)
    names = {name: f"{path}.{name}".lstrip(".") for name in entries}
    if not isinstance(tree, dict):
        some = ", ".join(list(names.values())[:3])
        raise DiffxError(f"{path}={_shown(tree)} is one value where there are several; type {some}.")
    for key in tree:
        if key not in entries:
            raise DiffxError(unknown_key(f"{path}.{key}".lstrip("."), list(names.values())))
    for name, entry in entries.items():
        if name not in tree and entry.default is MISSING and entry.default_factory is MISSING:
            raise DiffxError(f"{names[name]} is not set; type {names[name]}= and a value.")
    return kind(**{key: _value(hints[key], entries[key], value, names[key]) for key, value in tree.items()})


def _value(hint: Any, entry: "Field[Any]", value: Any, name: str) -> Any:
    """One setting, of the kind and in the range that it was declared with."""
    kinds = set(get_args(hint)) if isinstance(hint, UnionType) else {hint}
    nested = next((kind for kind in kinds if is_dataclass(kind)), None)
    if hint is Node or (Node in kinds and value):
        return _node(value, name)
    if Node in kinds:
        return None
    if get_origin(hint) is Mapping:
        return {str(key): _node(inner, f"{name}.{key}") for key, inner in _mapping(value, name).items()}
    if get_origin(hint) is tuple:
        return _numbers(entry, value, name)
    if nested is not None and not (value is None and NoneType in kinds):
        return _object(nested, value, name)  # type: ignore[arg-type]
    return _simple(kinds, entry, value, name)


def _simple(kinds: set[Any], entry: "Field[Any]", value: Any, name: str) -> Any:
    choices = entry.metadata.get("choices")
    if choices and type(value) is int:  # eval.precision=32 is a word of digits
        value = str(value)
    if choices and value not in choices:
        *most, last = choices
        raise DiffxError(f"{name}={_shown(value)} is not known; type {name}={', '.join(most)} or {last}.")
    if type(value) is int and int not in kinds and float in kinds:
        value = float(value)
    least, below = entry.metadata.get("least", -math.inf), entry.metadata.get("below", math.inf)
    fits = type(value) in kinds and (not isinstance(value, int | float) or least <= value < below)
    if not fits:
        wanted = _wanted(kinds, least, below, entry.metadata.get("word", ""))
        raise DiffxError(f"{name}={_shown(value)} must be {wanted}.")
    return value


def _wanted(kinds: set[Any], least: float, below: float, words: str) -> str:
    order = (int, float, bool, str, NoneType)
    accepted = kinds | ({int} if float in kinds else set())
    names = ["null" if kind is NoneType else kind.__name__ for kind in order if kind in accepted]
    words = " or ".join([*names, *([words] if words else [])])
    if least > -math.inf:
        words += f", at least {least:g}" if least == 0 or least >= 1e-300 else ", above 0"
    return words + (f" and below {below:.15g}" if below < math.inf else "")


def _numbers(entry: "Field[Any]", value: Any, name: str) -> tuple[float, ...]:
    least, below, example = (entry.metadata[key] for key in ("least", "below", "as_in"))
    fits = isinstance(value, list) and all(type(one) in (int, float) and least <= one < below for one in value)
    if not fits:
        raise DiffxError(
            f"{name}={_shown(value)} must be numbers, at least {least} and below {below}; "
            f"type for instance {name}={example}."
        )
    return tuple(float(one) for one in value)


def _node(tree: Any, name: str) -> Node:
    given = dict(_mapping(tree, name))
    target = given.pop("_target_", None)
    if not isinstance(target, str):
        raise DiffxError(f"{name}._target_ is not set, so that nothing says which class is meant.")
    return Node(MOVED.get(target, target), {str(key): value for key, value in given.items()})


def _mapping(value: Any, name: str) -> Mapping[Any, Any]:
    if not isinstance(value, dict):
        raise DiffxError(f"{name}={_shown(value)} is one value where settings of an object are wanted.")
    return value


def _shown(value: Any) -> str:
    """A value as a user types it."""
    return "null" if value is None else str(value).replace(", ", ",") if isinstance(value, list) else str(value)


def first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
