"""Autoencoders of diffusers: AutoencoderKL (SD-VAE, SD3's, FLUX's) and AutoencoderDC (DC-AE)."""

import os
import warnings
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from diffx.errors import DiffxError
from diffx.frozen.hub import hub_answers
from diffx.frozen.latent_statistics import Scaling
from diffx.store.weights import weights_folder

SD: dict[str, Any] = {
    "block_out_channels": (128, 256, 512, 512),
    "down_block_types": ("DownEncoderBlock2D",) * 4,
    "up_block_types": ("UpDecoderBlock2D",) * 4,
    "layers_per_block": 2,
    "norm_num_groups": 32,
}
"""What SD-VAE, SD3's and FLUX's have in common."""


class KL(nn.Module):
    """A variational autoencoder: x (B, 3, R, R) in [-1, 1] to mean and standard deviation of its posterior."""

    posterior, dtype = True, "float16"

    def __init__(self, net: Any) -> None:
        super().__init__()
        self.net = net
        self.channels: int = net.config.latent_channels
        self.stride = 2 ** (len(net.config.block_out_channels) - 1)

    @classmethod
    def of(cls, architecture: Mapping[str, Any]) -> "KL":
        """Without weights, from diffusers' arguments."""
        from diffusers import AutoencoderKL

        return cls(AutoencoderKL(**architecture))

    def encode(self, x: Tensor) -> Tensor:
        posterior = self.net.encode(x).latent_dist
        return torch.cat([posterior.mean, posterior.std], dim=1)

    def decode(self, raw: Tensor) -> Tensor:
        decoded: Tensor = self.net.decode(raw).sample
        return decoded

    def middle(self, raw: Tensor) -> Tensor:
        """What the decoder's middle makes of latents, as large as they are."""
        after, decoder = self.net.post_quant_conv, self.net.decoder
        middle: Tensor = decoder.mid_block(decoder.conv_in(raw if after is None else after(raw)), None)
        return middle


class DC(nn.Module):
    """A deep-compression autoencoder, which has no posterior."""

    posterior, dtype = False, "float16"

    def __init__(self, net: Any) -> None:
        super().__init__()
        self.net = net
        self.channels: int = net.config.latent_channels
        self.stride: int = net.spatial_compression_ratio

    def encode(self, x: Tensor) -> Tensor:
        latent: Tensor = self.net.encode(x).latent
        return latent

    def decode(self, raw: Tensor) -> Tensor:
        decoded: Tensor = self.net.decode(raw).sample
        return decoded


def load(name: str, place: str, subfolder: str = "") -> tuple[KL | DC, dict[str, Any]]:
    """The network of a folder, or of a repository on the Hub, and its config.json.

    Raises:
        DiffxError: it is not to be had, cannot be read, or is of another class.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of huggingface_hub, about an argument that diffusers passes
            config, network = _load(place, subfolder)
    except DiffxError:
        raise
    except Exception as error:
        # diffusers and huggingface_hub raise many unrelated types, all of which mean "not to be had here".
        if os.path.isdir(place):
            reason = str(error).strip().partition("\n")[0] or type(error).__name__
            raise DiffxError(f"autoencoder={name} cannot be loaded: {reason}") from error
        raise DiffxError(_missing(name, place, subfolder)) from error
    return (KL if config["_class_name"] == "AutoencoderKL" else DC)(network), config


def _load(place: str, subfolder: str) -> tuple[dict[str, Any], Any]:
    """config.json and the network."""
    from diffusers import AutoencoderDC, AutoencoderKL

    there = os.path.isdir(place)
    within = {"subfolder": subfolder} if subfolder and not (there and os.path.isfile(f"{place}/config.json")) else {}
    local = there or not hub_answers()
    config = AutoencoderKL.load_config(place, local_files_only=local, **within)
    classes = {"AutoencoderKL": AutoencoderKL, "AutoencoderDC": AutoencoderDC}
    if config.get("_class_name") not in classes:
        raise DiffxError(
            f"autoencoder={place} is a {config.get('_class_name')}; type one that is {' or '.join(classes)}."
        )
    return config, classes[config["_class_name"]].from_pretrained(
        place, use_safetensors=True, low_cpu_mem_usage=False, local_files_only=local, **within
    )


def scaling_of(config: Mapping[str, Any]) -> Scaling:
    """How diffusers' pipelines scale latents by config.json: by latents_mean and latents_std where it has them, and by
    scaling_factor."""
    factor = float(config.get("scaling_factor") or 1.0)
    if statistics := statistics_of(config):
        return statistics[0], [factor * scale for scale in statistics[1]]
    return [float(config.get("shift_factor") or 0.0)], [factor]


def statistics_of(config: Mapping[str, Any]) -> Scaling | None:
    """latents_mean and latents_std alone. REPA-E's networks are trained so, and the scaling_factor beside them is no
    more than the value that AutoencoderKL has where nobody says one."""
    if not (config.get("latents_mean") and config.get("latents_std")):
        return None
    return [float(m) for m in config["latents_mean"]], [1 / float(s) for s in config["latents_std"]]


def _missing(name: str, source: str, subfolder: str) -> str:
    inside = f" --include '{subfolder}/*'" if subfolder else ""
    return (
        f"autoencoder {name}: it is not here. Either put its folder (config.json, .safetensors) at "
        f"{weights_folder() / name} (DIFFX_WEIGHTS sets the folder), or copy a Hugging Face cache that holds it here "
        f"and set HF_HOME, or run `hf download {source}{inside}` once where there is a network."
    )
