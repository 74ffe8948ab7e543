"""What an imported model is sampled and measured under: settings, as a run has them."""

from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

from diffx.backbone import TextShape
from diffx.checkpoint.architecture import parse_architecture, setting_changes
from diffx.checkpoint.convert import import_file
from diffx.checkpoint.folder import BACKBONE, CONFIG, PLACE, Imported, read_model
from diffx.config.compose import compose_config
from diffx.config.settings import Settings, TextSettings
from diffx.config.target import Node
from diffx.errors import DiffxError
from diffx.frozen.autoencoder import SPECS as AUTOENCODERS

SAMPLERS = {"diffx.objective.DDPM": "ancestral", "diffx.objective.EDM": "edm"}
SD_VAE = "stabilityai/sd-vae-ft-ema"
DECODERS = {"lightningdit": "va_vae", "sd3": "sd3_vae", "jit": "pixels"}  # by family, where not SD-VAE
ENCODERS = {"sd3": "CLIP-L, CLIP-G and T5-XXL", "pixart": "T5-XXL"}
EMA_DECAY = 0.9999  # of every official repository here


class Readers(NamedTuple):
    """What reads prompts for a network: folders of text encoders, and tokens of a prompt, as of `prepare text`."""

    folders: tuple[str, ...] = ()
    length: int | None = None


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


def settings_of_model(
    folder: Path, data: str | None = None, decoder: str | None = None, readers: Readers | None = None
) -> Settings:
    """Settings of a run with this network; its sampler is one for its objective. Where text conditions, guidance leads
    away from the encoded empty prompt, as in diffusers' pipelines, whose files have no other null condition.

    data: a data set that is prepared, which decodes and reads prompts; None decodes with `decoder`, by default DiT's
    and SiT's, and `readers` read prompts.

    Raises:
        DiffxError: no model, a data set of other sizes, latents whose autoencoder nobody knows, or text encoders where
            none are needed, or none where they are.
    """
    model, readers = read_model(folder), readers or Readers()
    text = _text_of(model)
    if data is None or text is None:
        _check_readers(folder, model, readers)
    objective = dict(model.objective)
    target = str(objective.pop("_target_"))
    size, channels = model.settings["input_size"], model.settings["in_channels"]
    chosen = [f"data={data or _imagenet_of(model, decoder)}", "eval=curve"]
    if target in SAMPLERS:
        chosen += [f"sampler={SAMPLERS[target]}"]
    if target == "diffx.objective.EDM":
        chosen += ["sampler.nfe=49"]  # EDM's takes an odd number
    if text is not None and objective.get("shift"):
        chosen += [f"+sampler.shift={objective['shift']}"]  # SD3's grid of times, 3 in diffusers' scheduler
    settings = compose_config(chosen)
    network = Node(PLACE + model.backbone, model.settings)
    settings = replace(settings, backbone=network, objective=Node(target, objective), ema_decay=EMA_DECAY)
    if text is not None:
        settings = replace(settings, eval=replace(settings.eval, negative=""))
    if data is None:
        settings = _without_data(settings, model, decoder)
        return settings if text is None else _with_readers(settings, folder.name, text, readers)
    if (settings.data.channels, settings.data.size) != (channels, size):
        raise DiffxError(
            f"data={data} has latents of {settings.data.channels}x{settings.data.size}x{settings.data.size} and "
            f"{folder} takes {channels}x{size}x{size}; type another --data."
        )
    _check_text(data, settings.data.text, folder, text)
    return settings


def _text_of(model: Imported) -> TextShape | None:
    """Of the encoded text that conditions the network; None where classes do."""
    if "text_channels" not in model.settings:
        return None
    return TextShape(*(model.settings[key] for key in ("text_length", "text_channels", "pooled_channels")))


def _check_readers(folder: Path, model: Imported, readers: Readers) -> None:
    """Refuse a network of text without encoders, and the reverse."""
    text = _text_of(model)
    if text is None and (readers.folders or readers.length is not None):
        raise DiffxError(
            f"{folder} is conditioned by classes, and --encoder and --length are for text; leave them out."
        )
    if readers.length is not None and readers.length < 1:
        raise DiffxError(f"--length {readers.length}: type a number of at least 1, or leave it out.")
    if text is not None and not readers.folders:
        family = str(model.source.get("family"))
        known = f" of {ENCODERS[family]}, which {family} was trained with" if family in ENCODERS else " of each"
        raise DiffxError(
            f"{folder} is conditioned by text, and nothing says what reads prompts; type --encoder and the local "
            f"folder{known}, once for each encoder."
        )


def _check_text(data: str, found: TextSettings | None, folder: Path, wanted: TextShape | None) -> None:
    """Refuse a data set of classes for a network of text, the reverse, and text of other widths."""
    if (found is None) != (wanted is None):
        has, takes = ("captions", "classes") if wanted is None else ("classes", "text")
        raise DiffxError(f"data={data} has {has}, and {folder} is conditioned by {takes}; type another --data.")
    if found is None or wanted is None:
        return
    shape = TextShape(found.length, found.channels, found.pooled)
    if not shape.suits(wanted):
        raise DiffxError(f"data={data} has captions of {shape}, and {folder} takes {wanted}; type another --data.")


def _with_readers(settings: Settings, name: str, text: TextShape, readers: Readers) -> Settings:
    """The settings with text encoders in place of prepared captions. T5 alone reads as many tokens as the network was
    trained with; beside CLIPs `prepare text`'s default holds, which is that of diffusers' pipeline too."""
    length = readers.length or (None if text.pooled else text.length)
    source = settings.data.source
    reading = {"name": name, "text": list(text), "encoders": list(readers.folders), "length": length}
    changed = replace(
        settings.data,
        name=name,
        text=TextSettings(length=text.length, channels=text.channels, pooled=text.pooled),
        source=replace(source, arguments={**source.arguments, **reading}),
    )
    return replace(settings, data=changed)


def _decoder_of(model: Imported, typed: str | None) -> str:
    """What decodes the network's latents: what was typed, else what is known of its family."""
    channels = model.settings["in_channels"]
    name = typed or DECODERS.get(str(model.source.get("family")), SD_VAE if channels == 4 else None)
    if name is None:
        raise DiffxError(
            f"This network makes latents of {channels} channels, which the autoencoder that it was trained with "
            "decodes; type --decoder and its name (conf/autoencoder) or folder."
        )
    return name


def _imagenet_of(model: Imported, decoder: str | None) -> str:
    """The data set whose images are as large as the network's. An autoencoder that is not known without its files is
    taken to have SD-VAE's stride."""
    name = _decoder_of(model, decoder)
    known = {spec.source: spec for spec in AUTOENCODERS.values()} | AUTOENCODERS
    stride = known[name].stride if name in known else None
    return "imagenet512" if model.settings["input_size"] * (stride or 8) == 512 else "imagenet256"


def _without_data(settings: Settings, model: Imported, decoder: str | None) -> Settings:
    """The settings with an autoencoder in place of prepared latents."""
    name = _decoder_of(model, decoder)
    size, channels = model.settings["input_size"], model.settings["in_channels"]
    classes = model.settings.get("num_classes", 0)
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
