"""What an imported model is sampled and measured under: settings, as a run has them."""

from dataclasses import replace
from pathlib import Path

from diffx.checkpoint.architecture import parse_architecture, setting_changes
from diffx.checkpoint.convert import import_file
from diffx.checkpoint.folder import BACKBONE, CONFIG, PLACE, Imported, read_model
from diffx.config.compose import compose_config
from diffx.config.settings import Settings
from diffx.config.target import Node
from diffx.errors import DiffxError

SAMPLERS = {"diffx.objective.DDPM": "ancestral", "diffx.objective.EDM": "edm"}
SD_VAE = "stabilityai/sd-vae-ft-ema"
DECODERS = {"lightningdit": "va_vae"}  # by family, where not SD-VAE
EMA_DECAY = 0.9999  # of every official repository here


def is_model(path: Path) -> bool:
    """Whether a folder is one that `diffx.checkpoint import` wrote."""
    return (path / CONFIG).is_file() and (path / BACKBONE).is_file()


def import_once(file: Path, name: str, weights: str, changes: list[str]) -> tuple[Path, list[str]]:
    """The folder of an official file, of its name without the suffix, and what there is to say where it is imported
    now, the first time.

    Raises:
        DiffxError: it cannot be imported, or its folder is that of another file, or of other sizes or weights.
    """
    folder = file.with_suffix("")
    if not is_model(folder):
        return folder, import_file(file, name, folder, weights, changes)
    wanted, model = parse_architecture(name, setting_changes(changes)), read_model(folder)
    theirs = {**model.settings, "family": model.source.get("family"), "weights": model.source.get("weights", weights)}
    ours = {**wanted.settings, "family": wanted.family, "weights": weights}
    other = [f"{key}={theirs.get(key)} and not {value}" for key, value in ours.items() if theirs.get(key) != value]
    if file.exists() and file.stat().st_mtime > (folder / BACKBONE).stat().st_mtime:
        other.append("from an earlier file of this name")
    if other:
        raise DiffxError(
            f"{folder} holds what was imported before: {', '.join(other)}. Move it away to import {file.name} anew, or "
            f"type {folder} in place of the file."
        )
    return folder, []


def settings_of_model(folder: Path, data: str | None = None, decoder: str | None = None) -> Settings:
    """Settings of a run with this network; its sampler is one for its objective.

    data: a data set that is prepared, which decodes; None decodes with `decoder`, by default DiT's and SiT's.

    Raises:
        DiffxError: no model, a data set of other sizes, or latents whose autoencoder nobody knows.
    """
    model = read_model(folder)
    objective = dict(model.objective)
    target = str(objective.pop("_target_"))
    size, channels = model.settings["input_size"], model.settings["in_channels"]
    chosen = [f"data={data or ('imagenet512' if size == 64 else 'imagenet256')}", "eval=curve"]
    if target in SAMPLERS:
        chosen += [f"sampler={SAMPLERS[target]}"]
    if target == "diffx.objective.EDM":
        chosen += ["sampler.nfe=49"]  # EDM's takes an odd number
    settings = compose_config(chosen)
    network = Node(PLACE + model.backbone, model.settings)
    settings = replace(settings, backbone=network, objective=Node(target, objective), ema_decay=EMA_DECAY)
    if data is None:
        return _without_data(settings, model, decoder)
    if (settings.data.channels, settings.data.size) != (channels, size):
        raise DiffxError(
            f"data={data} has latents of {settings.data.channels}x{settings.data.size}x{settings.data.size} and "
            f"{folder} takes {channels}x{size}x{size}; type another --data."
        )
    return settings


def _without_data(settings: Settings, model: Imported, decoder: str | None) -> Settings:
    """The settings with an autoencoder in place of prepared latents."""
    size, channels, classes = (model.settings[key] for key in ("input_size", "in_channels", "num_classes"))
    name = decoder or DECODERS.get(str(model.source.get("family")), SD_VAE if channels == 4 else None)
    if name is None:
        raise DiffxError(
            f"This network makes latents of {channels} channels, which the autoencoder that it was trained with "
            "decodes; type --decoder and its name (conf/autoencoder) or folder."
        )
    space = {"decoder": name, "shape": [channels, size, size], "num_classes": classes}
    changed = replace(
        settings.data,
        channels=channels,
        size=size,
        num_classes=classes,
        decoder=name,
        source=Node("diffx.data.LatentSpace", space),
    )
    return replace(settings, data=changed)
