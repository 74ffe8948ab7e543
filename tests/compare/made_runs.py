"""Run directories with curves whose answers are known."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

SUPERVISED = {"name": "embedded_sup", "family": "embedded-classifier", "training": "supervised"}
SELF_SUPERVISED = {"name": "embedded_ssl", "family": "embedded-simclr", "training": "self-supervised"}
ENCODER = {"name": "embedded_encoder", "family": "embedded-encoder", "training": "self-supervised"}

Curve = Callable[[float], float]


def falling(start: float, rate: float, sooner: float = 1.0) -> Curve:
    """A power law, which is read exactly between evaluations: start / (sooner * cost) ** rate."""
    return lambda cost: start * (sooner * cost) ** -rate


def line(step: int, cost: float, values: dict[str, Any], unit: str = "cpu_hours", protocol: str = "ab12") -> str:
    point = {"step": step, "images": 64 * step, unit: cost, "train_flops": 1e9 * step, "values": values}
    return json.dumps({**point, "protocol": protocol, "ema_decay": 0.995}) + "\n"


def write_run(
    root: Path,
    label: str = "plain",
    seed: int = 0,
    curves: dict[str, Curve] | None = None,
    costs: Sequence[float] = (1.0, 2.0, 4.0, 8.0),
    plugins: dict[str, Any] | None = None,
    config: dict[str, Any] | None = None,
    facts: dict[str, Any] | None = None,
    identity: str | None = None,
) -> Path:
    """Writes one run directory and returns it. Cost is in CPU-hours, one evaluation per entry of `costs`."""
    identity = identity or label.replace("+", "-")
    curves = curves or {"fd_embedded_sup_1k": falling(100, 0.8), "fd_embedded_ssl_1k": falling(2, 0.8)}
    folder = root / "demo" / identity / f"s{seed}"
    folder.mkdir(parents=True, exist_ok=True)
    if plugins is None:
        plugins = {} if label == "plain" else {name: {"weight": 0.5} for name in label.split("+")}
    settings = {
        "backbone": {"name": "dit_tiny", "depth": 6, "decoder_layers": 0},
        "data": {"name": "digits"},
        "plugins": plugins,
        "optimizer": {"lr": 1e-3},
        "batch_size": 64,
        "ema_decay": 0.995,
        "experiment": "demo",
        "seed": seed,
    }
    OmegaConf.save(OmegaConf.create({**settings, **(config or {})}), folder / "config.yaml")
    known = {
        "id": identity,
        "experiment": "demo",
        "seed": seed,
        "label": label,
        "plugins": list(plugins),
        "parameters": {"backbone": 1_800_000, "training_only": 100_000 if plugins else 0},
        "flops": {"forward_per_image": 1e8, "train_per_image": 3e8, "relative_forward": 1.0},
        "device": {"kind": "cpu", "name": "Two cores", "count": 1},
        "precision": "32-true",
        "cost": "cpu_hours",
        "protocol": {"sampler": "heun", "nfe": 50, "labels": "balanced", "data": "digits"},
        "protocol_hash": "ab12",
        "versions": {"diffx": "0.1.0", "torch": "2.15"},
        "git": {"commit": "abc1234", "dirty": False},
        "encoders": [ENCODER] if "repa" in plugins else [],
        "feature_networks": [SUPERVISED, SELF_SUPERVISED],
        "offline": {},
        "reference": {"floor": {"fd_embedded_sup_1k": 1.2}},
        "status": "complete",
        "clock": {"train": 3600 * costs[-1], "eval": 360.0, "checkpoint": 10.0, "compile": 0.0, "encoder": 0.0},
        "samples_per_second": 400.0,
        "peak_memory_bytes": None,
    }
    (folder / "run.json").write_text(json.dumps({**known, **(facts or {})}))
    unit, protocol = {**known, **(facts or {})}["cost"], {**known, **(facts or {})}["protocol_hash"]
    lines = [
        line(100 * number, cost, {name: curve(cost) for name, curve in curves.items()}, unit, protocol)
        for number, cost in enumerate(costs, start=1)
    ]
    (folder / "curve.jsonl").write_text("".join(lines))
    return folder
