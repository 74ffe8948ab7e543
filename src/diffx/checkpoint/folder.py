"""The folder of an imported model: plain safetensors and what they are weights of.

backbone.safetensors   a plain backbone of diffx, loads strictly
plugin.safetensors     what only training uses, where there is any: the state of the plugin that config.yaml names
unused.safetensors     what diffx has no place for, kept so that an export is complete
config.yaml            backbone and objective as settings, and where the weights came from
"""

from pathlib import Path
from typing import Any, NamedTuple

from omegaconf import OmegaConf
from torch import Tensor

from diffx import backbone as backbones
from diffx.backbone import Backbone
from diffx.checkpoint.layouts import LAYOUTS
from diffx.checkpoint.native import read_checkpoint
from diffx.checkpoint.official import Weights
from diffx.checkpoint.tensors import describe_mismatch, read_tensors, refuse_existing, write_tensors
from diffx.errors import DiffxError
from diffx.run.folder import RunDir
from diffx.store.whole_file import write_text

BACKBONE, PLUGIN, UNUSED, CONFIG = "backbone.safetensors", "plugin.safetensors", "unused.safetensors", "config.yaml"
PLACE = "diffx.backbone."


class Imported(NamedTuple):
    """Weights, the backbone's class in diffx.backbone and its settings, the objective's settings, and facts about the
    source (family, null label)."""

    weights: Weights
    backbone: str
    settings: dict[str, Any]
    objective: dict[str, Any]
    source: dict[str, Any]


def write_model(model: Imported, folder: Path) -> list[Path]:
    """Write the files of a model into a folder that has none of them; returns their paths.

    Raises:
        DiffxError: there is a model already, or the folder cannot be written.
    """
    for name in (BACKBONE, PLUGIN, UNUSED, CONFIG):
        refuse_existing(folder / name)
    written = []
    for name, tensors in zip((BACKBONE, PLUGIN, UNUSED), model.weights, strict=True):
        if tensors:
            write_tensors(tensors, folder / name)
            written.append(folder / name)
    facts = {
        "backbone": {"_target_": PLACE + model.backbone, **model.settings},
        "objective": dict(model.objective),
        "source": dict(model.source),
    }
    write_text(folder / CONFIG, OmegaConf.to_yaml(OmegaConf.create(facts)))
    return [*written, folder / CONFIG]


def read_model(folder: Path) -> Imported:
    """A model from its folder, or the EMA weights of a run from its run directory.

    Raises:
        DiffxError: it is neither.
    """
    config_file, weights_file = folder / CONFIG, folder / BACKBONE
    if not weights_file.exists():
        weights_file = folder / "checkpoints" / "ema.safetensors"
    if not config_file.is_file() or not weights_file.is_file():
        raise DiffxError(
            f"{folder} is neither an imported model ({CONFIG} and {BACKBONE}) nor a run with a checkpoint "
            f"({CONFIG} and checkpoints/ema.safetensors)."
        )
    config = OmegaConf.to_container(OmegaConf.load(config_file))
    if not isinstance(config, dict) or not isinstance(config.get("backbone"), dict):
        raise DiffxError(f"{config_file} has no backbone settings.")
    settings = dict(config["backbone"])
    target = str(settings.pop("_target_", PLACE + "DiT"))
    known = sorted({layout.backbone for layout in LAYOUTS.values()})
    name = target.removeprefix(PLACE)
    if name not in known:
        raise DiffxError(f"{config_file} is of a {target}, which has no official layout; there are {', '.join(known)}.")
    tensors = [read_tensors(p).tensors if p.exists() else {} for p in (folder / PLUGIN, folder / UNUSED)]
    weights = Weights(read_tensors(weights_file).tensors, *tensors)
    return Imported(weights, name, settings, dict(config.get("objective", {})), dict(config.get("source", {})))


def trained_plugin(run: Path, name: str) -> dict[str, Tensor]:
    """The weights of a run's plugin from its last checkpoint; none where it has no such plugin, or none is kept."""
    checkpoint, prefix = RunDir(run).last_checkpoint, f"plugins.{name}."
    if not checkpoint.is_file():
        return {}
    state: dict[str, Tensor] = read_checkpoint(checkpoint)["state_dict"]
    return {key.removeprefix(prefix): tensor.clone() for key, tensor in state.items() if key.startswith(prefix)}


def open_backbone(folder: Path) -> Backbone:
    """The plain backbone of an imported model or of a run, in evaluation mode.

    Raises:
        DiffxError: there is none, or its weights do not fit its settings.
    """
    model = read_model(folder)
    backbone = getattr(backbones, model.backbone)(**model.settings)
    ours: dict[str, Tensor] = backbone.state_dict()
    difference = describe_mismatch(model.weights.backbone, ours, "the weights", "config.yaml")
    if difference:
        raise DiffxError(f"{folder}: the weights are not of the backbone in config.yaml: {difference}.")
    backbone.load_state_dict(model.weights.backbone)
    return backbone.eval()
