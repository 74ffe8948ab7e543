"""An interpolant of the linear path that predicts velocities, as a pipeline folder of diffusers.

transformer/   DiTTransformer2DModel
scheduler/     FlowMatchEulerDiscreteScheduler, of 1000 timesteps and no shift
pipeline.py    FlowDiTPipeline, a copy of pipeline.py here: diffusers' own DiTPipeline takes no flow matching

The network here sees t in [0, 1], and diffusers hands it 1000 t and other frequencies. DiT's features of such times are
smooth, so that a linear map of diffusers' gives them to within 1e-8: it goes into the embedding's first layer.
"""

import json
import math
from collections.abc import Mapping
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from diffx.checkpoint.architecture import check_layout
from diffx.checkpoint.diffusers.transformer import CONFIG, TENSORS, diffusers_config, diffusers_tensors
from diffx.checkpoint.folder import Imported
from diffx.checkpoint.layouts import LAYOUTS
from diffx.checkpoint.official import TIME
from diffx.checkpoint.tensors import refuse_existing, write_tensors
from diffx.errors import DiffxError
from diffx.store.whole_file import write_text

STEPS = 1000
HALF = 128  # frequencies
SCHEDULER = {"_class_name": "FlowMatchEulerDiscreteScheduler", "num_train_timesteps": STEPS, "shift": 1.0}
INDEX = {
    "_class_name": ["pipeline", "FlowDiTPipeline"],
    "scheduler": ["diffusers", "FlowMatchEulerDiscreteScheduler"],
    "transformer": ["diffusers", "DiTTransformer2DModel"],
    "vae": [None, None],
}


def write_flow(model: Imported, folder: Path) -> list[Path]:
    """Write the folder; returns the paths.

    Raises:
        DiffxError: the backbone has options that DiTTransformer2DModel has not, its objective is not the linear path's
            velocity, or the folder has a model already.
    """
    check_layout(model.backbone, model.settings, model.objective, LAYOUTS["repa"], "diffusers")
    for key, wanted in (("path", "linear"), ("prediction", "velocity")):
        if (given := model.objective.get(key, wanted)) != wanted:
            raise DiffxError(
                f"This model cannot be written as diffusers: objective.{key}={given} where flow matching has {wanted}."
            )
    texts = {
        "model_index.json": _json(INDEX),
        "scheduler/scheduler_config.json": _json(SCHEDULER),
        f"transformer/{CONFIG}": _json(diffusers_config(model.settings)),
        "pipeline.py": files("diffx.checkpoint.diffusers").joinpath("pipeline.py").read_text(),
    }
    weights = folder / "transformer" / TENSORS
    for path in (weights, *(folder / name for name in texts)):
        refuse_existing(path)
    backbone = model.weights.backbone
    backbone = backbone | {TIME: for_timesteps(backbone[TIME])}
    write_tensors(diffusers_tensors(backbone, model.settings["depth"]), weights)
    for name, text in texts.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        write_text(folder / name, text)
    return [weights, *(folder / name for name in texts)]


def for_timesteps(weight: Tensor) -> Tensor:
    """The first layer (D, 256) of a time embedding for diffusers' features of 1000 t that gives what `weight` gives for
    DiT's features of t, at t in [0, 1]: by least squares in float64 over times that are dense at both ends."""
    t = (1 - np.cos(np.linspace(0, np.pi, 801))) / 2
    place = np.arange(HALF)
    dits, diffusers = (np.exp(-math.log(10000) * place / period) for period in (HALF, HALF - 1))
    wanted, given = _features(t, dits), _features(STEPS * t, diffusers)
    mixed, *_ = np.linalg.lstsq(given, wanted, rcond=1e-8)
    return (weight.double() @ torch.from_numpy(mixed).T).to(weight.dtype)


def _features(t: Any, omega: Any) -> Any:
    angle = t[:, None] * omega
    return np.concatenate([np.cos(angle), np.sin(angle)], axis=1)


def _json(facts: Mapping[str, Any]) -> str:
    return json.dumps(facts, indent=2) + "\n"
