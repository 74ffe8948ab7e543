"""Frozen autoencoders of diffusers: images to latents and back."""

import json
import math
import os
import warnings
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from diffx.errors import DiffxError
from diffx.frozen.hub import hub_answers
from diffx.pixels.values import signed
from diffx.store.weights import weights_folder

STATISTICS = "channel_statistics.json"
CHUNK = 16
"""Images at a time: at 256 px SD-VAE's decoder holds 130 MB for each."""


class Autoencoder:
    """uint8 images (B, 3, R, R) to raw latents and back to values in [-1, 1], in float32, without gradients.

    A diffusion model trains on (raw - shift)·scale.

    Attributes:
        name: on the Hub, or an absolute folder.
        posterior: encode() gives mean and standard deviation (AutoencoderKL), else latents alone (AutoencoderDC).
        shift, scale: one number, or one per channel.
    """

    def __init__(self, name: str, network: Any, posterior: bool, shift: list[float], scale: list[float]) -> None:
        self.name, self.posterior, self.shift, self.scale = name, posterior, shift, scale
        self._network = network.eval().requires_grad_(False)

    def to(self, device: torch.device | str) -> "Autoencoder":
        self._network.to(device)
        return self

    @torch.no_grad()
    def encode(self, image: Tensor) -> Tensor:
        """Raw latents (B, 2C, h, w): mean and standard deviation of the posterior; or (B, C, h, w) without one."""
        return torch.cat([self._encode(signed(part)) for part in image.split(CHUNK)])

    @torch.no_grad()
    def decode(self, raw: Tensor) -> Tensor:
        """Raw latents (B, C, h, w) to values (B, 3, R, R) that are in [-1, 1] but for overshoot."""
        return torch.cat([self._network.decode(part).sample for part in raw.split(CHUNK)])

    @torch.no_grad()
    def features(self, raw: Tensor) -> Tensor:
        """What the decoder's middle makes of raw latents (B, C, h, w): (B, D, h, w), as large as the latents.

        Raises:
            DiffxError: this kind of autoencoder has no middle.
        """
        decoder = self._network.decoder
        if not hasattr(decoder, "mid_block"):
            raise DiffxError(f"autoencoder {self.name} has no middle block to take features from; take another data=.")
        after = getattr(self._network, "post_quant_conv", None)
        parts = raw.split(CHUNK) if after is None else [after(part) for part in raw.split(CHUNK)]
        return torch.cat([decoder.mid_block(decoder.conv_in(part), None) for part in parts])

    def _encode(self, x: Tensor) -> Tensor:
        if not self.posterior:
            return self._network.encode(x).latent
        posterior = self._network.encode(x).latent_dist
        return torch.cat([posterior.mean, posterior.std], dim=1)


def load_autoencoder(name: str) -> Autoencoder:
    """The autoencoder in folder `name`, else in the weights folder ($DIFFX_WEIGHTS) by that name, else of the Hugging
    Face cache, else downloaded. All are in diffusers' layout: config.json and a .safetensors file.

    Scaling is config.json's (scaling_factor, shift_factor, latents_mean, latents_std). A file channel_statistics.json,
    {"mean": [...], "std": [...]} over raw latents, replaces it: shift = mean, scale = 1/std.

    Raises:
        DiffxError: not found, unreadable, or a class that is not supported.
    """
    place = _place(name)
    # diffusers would take a folder that is not there for the name of a repository.
    if name.startswith((".", "/", "~")) and not os.path.isdir(place):
        raise DiffxError(f"autoencoder={name} is not a folder; type where it is, or a name on the Hub.")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of huggingface_hub, about an argument that diffusers passes
            config, network = _load(place)
    except DiffxError:
        raise
    except Exception as error:
        # diffusers and huggingface_hub raise many unrelated types, all of which mean "not to be had here".
        if os.path.isdir(place):
            reason = str(error).strip().partition("\n")[0] or type(error).__name__
            raise DiffxError(f"autoencoder={name} cannot be loaded: {reason}") from error
        raise DiffxError(_missing(name)) from error
    shift, scale = _scaling(config, Path(place) / STATISTICS)
    if not all(map(math.isfinite, [*shift, *scale])) or not all(scale):
        raise DiffxError(
            f"autoencoder={name} scales by {scale} and shifts by {shift}, which leaves no latents; mend it."
        )
    name = os.path.abspath(place) if os.path.isdir(place) else name
    return Autoencoder(name, network, config["_class_name"] == "AutoencoderKL", shift, scale)


def _load(place: str) -> tuple[dict[str, Any], Any]:
    """config.json and the network of a folder, or of a repository on the Hub."""
    from diffusers import AutoencoderDC, AutoencoderKL

    local = os.path.isdir(place) or not hub_answers()
    config = AutoencoderKL.load_config(place, local_files_only=local)
    classes = {"AutoencoderKL": AutoencoderKL, "AutoencoderDC": AutoencoderDC}
    if config.get("_class_name") not in classes:
        raise DiffxError(
            f"autoencoder={place} is a {config.get('_class_name')}; type one that is {' or '.join(classes)}."
        )
    return config, classes[config["_class_name"]].from_pretrained(
        place, use_safetensors=True, low_cpu_mem_usage=False, local_files_only=local
    )


def _place(name: str) -> str:
    """The folder that `name` means, or `name` itself for the Hugging Face Hub."""
    own = Path(name).expanduser()
    places = [own, weights_folder() / name, weights_folder() / own.name]
    return next((str(place) for place in places if (place / "config.json").is_file()), str(own))


def _scaling(config: dict[str, Any], statistics: Path) -> tuple[list[float], list[float]]:
    """Shift and scale, each one number or one per channel."""
    if statistics.is_file():
        try:
            found = json.loads(statistics.read_text())
            return [float(m) for m in found["mean"]], [1 / float(s) for s in found["std"]]
        except (ValueError, KeyError, TypeError, ZeroDivisionError) as error:
            raise DiffxError(f'{statistics} has to be {{"mean": [...], "std": [...]}}, std positive.') from error
    factor = float(config.get("scaling_factor") or 1.0)
    if config.get("latents_mean") and config.get("latents_std"):
        return [float(m) for m in config["latents_mean"]], [factor / float(s) for s in config["latents_std"]]
    return [float(config.get("shift_factor") or 0.0)], [factor]


def _missing(name: str) -> str:
    return (
        f"autoencoder {name}: it is not here. Either put its folder (config.json, .safetensors) at "
        f"{weights_folder() / name} (DIFFX_WEIGHTS sets the folder), or copy a Hugging Face cache that holds it here "
        f"and set HF_HOME, or run `hf download {name}` once where there is a network."
    )
