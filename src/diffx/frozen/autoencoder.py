"""Autoencoders, frozen: images to latents and back, whatever layout their weights come in."""

import math
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from diffx.errors import DiffxError
from diffx.frozen import autoencoder_diffusers, autoencoder_ldm, autoencoder_rae
from diffx.frozen.autoencoder_rae import Recipe
from diffx.frozen.latent_statistics import Scaling, read_statistics
from diffx.frozen.untrained import RANDOM, make_untrained
from diffx.pixels.values import signed
from diffx.store.weights import weights_folder

CHUNK = 16
"""Images at a time: at 256 px SD-VAE's decoder holds 130 MB for each."""


class Network(Protocol):
    """What stands behind an Autoencoder: a module whose parts keep gradients.

    posterior: encode() gives mean and standard deviation (B, 2C, h, w), else latents alone (B, C, h, w).
    channels, stride: C, and how many pixels of the image a place of the latents stands for. dtype: of stored latents.
    """

    posterior: bool
    channels: int
    stride: int
    dtype: str

    def encode(self, x: Tensor) -> Tensor: ...
    def decode(self, raw: Tensor) -> Tensor: ...


@dataclass(frozen=True)
class AutoencoderSpec:
    """What is known of an autoencoder without loading it.

    source: a folder, or a name on the Hub, with `subfolder` there. channels, stride: of its latents; None is whatever
    it has. layout: "diffusers" (config.json and .safetensors), "ldm" (a checkpoint of CompVis' latent diffusion, as
    LightningDiT's VA-VAE), "rae" (its authors' decoder and statistics), "pixels"; "" is what the folder
    holds. statistics: its latents are normalised by their mean and deviation per channel, which a file beside the
    weights or config.json has to say. architecture: arguments of the network, so that its operations can be counted
    without weights. rae: what else is known of an RAE.
    """

    source: str
    channels: int | None = None
    stride: int | None = None
    layout: str = ""
    subfolder: str = ""
    statistics: bool = False
    architecture: Mapping[str, Any] = field(default_factory=dict)
    rae: Recipe | None = None


def _kl(channels: int, **more: Any) -> dict[str, Any]:
    return {**autoencoder_diffusers.SD, "latent_channels": channels, **more}


_SIXTEEN = _kl(16, use_quant_conv=False, use_post_quant_conv=False)
_F16 = autoencoder_ldm.VAVAE

SPECS = {
    "sd_vae_mse": AutoencoderSpec("stabilityai/sd-vae-ft-mse", 4, 8, "diffusers", architecture=_kl(4)),
    "sd_vae_ema": AutoencoderSpec("stabilityai/sd-vae-ft-ema", 4, 8, "diffusers", architecture=_kl(4)),
    "sd3_vae": AutoencoderSpec(
        "stabilityai/stable-diffusion-3-medium-diffusers", 16, 8, "diffusers", "vae", architecture=_SIXTEEN
    ),
    "flux_vae": AutoencoderSpec("black-forest-labs/FLUX.1-schnell", 16, 8, "diffusers", "vae", architecture=_SIXTEEN),
    "dc_ae": AutoencoderSpec("mit-han-lab/dc-ae-f32c32-in-1.0-diffusers", 32, 32, "diffusers"),
    "va_vae": AutoencoderSpec(
        "hustvl/vavae-imagenet256-f16d32-dinov2", 32, 16, "ldm", statistics=True, architecture=_F16
    ),
    "e2e_vae": AutoencoderSpec("REPA-E/e2e-sdvae-hf", 4, 8, statistics=True, architecture=_kl(4)),
    "e2e_vavae": AutoencoderSpec("REPA-E/e2e-vavae-hf", 32, 16, statistics=True, architecture=_F16),
    "rae_dinov2_b": AutoencoderSpec(
        "nyu-visionx/RAE-dinov2-wReg-base-ViTXL-n08",
        768,
        16,
        architecture=autoencoder_rae.VIT_XL,
        rae=Recipe("dinov2_vitb14_reg"),
    ),
    "rae2_dinov3_l": AutoencoderSpec(
        "nyu-visionx/RAEv2-models",
        1024,
        16,
        "rae",
        architecture=autoencoder_rae.VIT_XL,
        rae=Recipe("dinov3_vitl16", (12, 14, 16, 18, 20, 22, 24), levels=True),
    ),
    "pixels": AutoencoderSpec("pixels", 3, 1, "pixels"),
}


class Autoencoder:
    """uint8 images (B, 3, R, R) to raw latents and back to values in [-1, 1], in float32, without gradients.

    A diffusion model trains on (raw - shift)·scale.

    Attributes:
        name: one of SPECS, or on the Hub, or an absolute folder.
        posterior: encode() gives mean and standard deviation (AutoencoderKL), else latents alone.
        shift, scale: one number, or one per channel.
    """

    def __init__(self, name: str, network: Any, scaling: Scaling) -> None:
        self.name, (self.shift, self.scale) = name, scaling
        self.posterior, self.dtype = network.posterior, network.dtype
        self.network = network.eval().requires_grad_(False)

    def to(self, device: torch.device | str) -> "Autoencoder":
        self.network.to(device)
        return self

    @torch.no_grad()
    def encode(self, image: Tensor) -> Tensor:
        """Raw latents (B, 2C, h, w): mean and standard deviation of the posterior; or (B, C, h, w) without one."""
        return torch.cat([self.network.encode(signed(part)) for part in image.split(CHUNK)])

    @torch.no_grad()
    def decode(self, raw: Tensor) -> Tensor:
        """Raw latents (B, C, h, w) to values (B, 3, R, R) that are in [-1, 1] but for overshoot."""
        return torch.cat([self.network.decode(part) for part in raw.split(CHUNK)])

    @torch.no_grad()
    def features(self, raw: Tensor) -> Tensor:
        """What the decoder's middle makes of raw latents (B, C, h, w): (B, D, h, w), as large as the latents.

        Raises:
            DiffxError: this kind of autoencoder has no middle.
        """
        if not hasattr(self.network, "middle"):
            raise DiffxError(f"autoencoder {self.name} has no middle block to take features from; take another data=.")
        return torch.cat([self.network.middle(part) for part in raw.split(CHUNK)])


def load_autoencoder(name: str) -> Autoencoder:
    """Autoencoder `name`: one of SPECS, a folder, or a name on the Hub. Weights are in folder `name`, else in the
    weights folder ($DIFFX_WEIGHTS) by that name or by that of its source, else, in diffusers' layout, in the Hugging
    Face cache, else downloaded.

    Scaling is config.json's (scaling_factor, shift_factor, latents_mean, latents_std), or that of a file of statistics
    beside the weights: channel_statistics.json, or the authors' own (see latent_statistics).

    "random" is one of SD-VAE's layout that nobody has trained.

    Raises:
        DiffxError: not found, unreadable, without its statistics, or another network than is known of that name.
    """
    if name == RANDOM:
        small = autoencoder_diffusers.SD | {"block_out_channels": (16, 32, 32, 32), "norm_num_groups": 8}
        return Autoencoder(
            name,
            make_untrained("autoencoder", lambda: autoencoder_diffusers.KL.of({**small, "latent_channels": 4})),
            ([0.0], [0.18215]),
        )
    spec = _spec(name)
    if spec.layout == "pixels":
        return Autoencoder(name, Pixels(), ([127.5], [1 / 127.5]))
    place = _place(name, spec)
    network, config = _load(name, spec, place)
    statistics = read_statistics(Path(place)) if os.path.isdir(place) else None
    if spec.statistics and statistics is None:
        statistics = autoencoder_diffusers.statistics_of(config)
        if statistics is None:
            raise DiffxError(
                f"autoencoder={name} needs the statistics of its latents, and there are none in {place}; put its files "
                f"in {weights_folder() / name}, and the authors' latents_stats.pt or *-latents-stats.pt, or "
                "channel_statistics.json, beside them."
            )
    shift, scale = statistics or autoencoder_diffusers.scaling_of(config)
    _check(name, spec, place, network, shift, scale)
    known = name if name in SPECS else os.path.abspath(place) if os.path.isdir(place) else name
    return Autoencoder(known, network, (shift, scale))


def _spec(name: str) -> AutoencoderSpec:
    """What is known of `name`, also where it is the Hub's name of one that needs statistics."""
    of_hub = {spec.source: spec for spec in SPECS.values() if spec.statistics}
    return SPECS.get(name) or of_hub.get(name) or AutoencoderSpec(name)


def _load(name: str, spec: AutoencoderSpec, place: str) -> tuple[Network, Mapping[str, Any]]:
    """The network in a folder or on the Hub, and the configuration of diffusers that scales its latents."""
    layout = spec.layout or layout_of(Path(place)) or "diffusers"
    found = layout_of(Path(place)) if os.path.isdir(place) else layout
    if found != layout:
        holds = f"holds the layout {found}" if found else "holds no autoencoder"
        raise DiffxError(f"autoencoder={name} comes in the layout {layout}, and {place} {holds}; put its files there.")
    if layout == "ldm":
        return autoencoder_ldm.load(Path(place)), {}
    if layout == "rae":
        return autoencoder_rae.load(Path(place), spec.rae or Recipe(), spec.architecture), {}
    return autoencoder_diffusers.load(name, place, spec.subfolder)


def layout_of(place: Path) -> str:
    """What a folder holds: diffusers, rae or ldm; "" is nothing that is known."""
    if autoencoder_rae.is_rae(place):
        return "rae"
    if (place / "config.json").is_file():
        return "diffusers"
    return "ldm" if autoencoder_ldm.checkpoints(place) else ""


def _place(name: str, spec: AutoencoderSpec) -> str:
    """The folder of autoencoder `name`; of layouts that diffusers reads, a name on the Hugging Face Hub.

    Raises:
        DiffxError: there is none, and no Hub has it.
    """
    own, folder = Path(spec.source).expanduser(), weights_folder()
    places = [folder / name, folder / spec.source, folder / own.name]
    if name not in SPECS:
        places = [own, *places[1:]]
    found = next((str(place) for place in places if layout_of(place)), str(own))
    if spec.source.startswith((".", "/", "~")) and not os.path.isdir(found):
        # diffusers would take a folder that is not there for the name of a repository.
        raise DiffxError(f"autoencoder={name} is not a folder; type where it is, or a name on the Hub.")
    if spec.layout in ("ldm", "rae") and not os.path.isdir(found):
        raise DiffxError(
            f"autoencoder {name}: it is not here; put the files of {spec.source} in {folder / name} (DIFFX_WEIGHTS "
            "sets the folder; docs/prepare.md lists them)."
        )
    return found


def _check(name: str, spec: AutoencoderSpec, place: str, network: Network, shift: Any, scale: Any) -> None:
    """Refuse another network than is known of that name, and statistics that do not fit it."""
    if not all(map(math.isfinite, [*shift, *scale])) or not all(scale):
        raise DiffxError(
            f"autoencoder={name} scales by {scale} and shifts by {shift}, which leaves no latents; mend it."
        )
    wanted, found = (spec.channels, spec.stride), (network.channels, network.stride)
    if spec.channels and wanted != found:
        raise DiffxError(
            f"autoencoder={name} makes {wanted[0]} channels of {wanted[1]} pixels each, and the network in {place} "
            f"makes {found[0]} of {found[1]}: it is another; put the files of {spec.source} there."
        )
    for numbers in (shift, scale):
        if len(numbers) not in (1, network.channels):
            raise DiffxError(
                f"autoencoder={name} has {network.channels} channels, and its statistics are of {len(numbers)}; put "
                f"those of its own latents in {place}."
            )


def sketch(name: str) -> Any:
    """Autoencoder `name` of SPECS without weights, on whatever device is current; None where its architecture is not
    known without them."""
    spec = SPECS[name]
    if spec.layout == "pixels":
        return Pixels()
    if spec.rae:
        return autoencoder_rae.sketch(spec.architecture, spec.rae)
    return autoencoder_diffusers.KL.of(spec.architecture) if spec.architecture else None


class Pixels(nn.Module):
    """No autoencoder: "latents" are the image's levels, stored as they are."""

    posterior, channels, stride, dtype = False, 3, 1, "uint8"

    def encode(self, x: Tensor) -> Tensor:
        return ((x + 1) * 127.5).round()

    def decode(self, raw: Tensor) -> Tensor:
        return raw / 127.5 - 1
