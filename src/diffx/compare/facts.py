"""The shape of run.json: what kind of thing each entry has to be before a comparison relies on it."""

import math
from collections.abc import Callable
from typing import Any

COSTS = ("gpu_hours", "cpu_hours")


def is_number(value: Any) -> bool:
    return isinstance(value, int | float) and math.isfinite(value)


def is_numbers(value: Any) -> bool:
    return isinstance(value, dict) and all(one is None or is_number(one) for one in value.values())


def is_mapping(value: Any) -> bool:
    return isinstance(value, dict)


def is_mappings(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(one, dict) for one in value)


SHAPES: dict[str, Callable[[Any], bool]] = {
    "seed": lambda value: isinstance(value, int),
    "plugins": lambda value: isinstance(value, list) and all(isinstance(one, str) for one in value),
    "parameters": is_numbers,
    "flops": is_numbers,
    "device": is_mapping,
    "protocol": is_mapping,
    "versions": is_mapping,
    "git": is_mapping,
    "encoders": is_mappings,
    "feature_networks": is_mappings,
    "offline": is_mapping,
    "reference": lambda value: isinstance(value, dict) and is_numbers(value.get("floor") or {}),
    "clock": is_numbers,
    "train_parts": is_numbers,
    "samples_per_second": is_number,
    "peak_memory_bytes": is_number,
    "cost": lambda value: value in COSTS,
}


def misshapen(facts: dict[str, Any]) -> str | None:
    """The first entry of run.json whose kind is wrong, so that nothing downstream doubts it; None when all fit."""
    wrong = (name for name, fits in SHAPES.items() if facts.get(name) is not None and not fits(facts[name]))
    return next(wrong, None)
