"""Autoencoders of diffusers: AutoencoderKL (SD-VAE, SD3's, FLUX's), AutoencoderDC (DC-AE) and AutoencoderRAE."""

import os
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import hf_hub_download
from torch import Tensor, nn

from diffx.errors import DiffxError
from diffx.frozen.hub import hub_answers
from diffx.frozen.latent_statistics import Scaling
from diffx.store.weights import read_weights, weights_folder

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


class RAE(nn.Module):
    """A representation autoencoder with its encoder in it, which normalises its latents itself: by (deviation + 1e-5)
    where the authors' code has sqrt(variance + 1e-5), which for their published statistics differs by 1e-5."""

    posterior, dtype = False, "float16"

    def __init__(self, net: Any) -> None:
        super().__init__()
        self.net = net
        self.channels: int = net.config.encoder_hidden_size
        self.stride: int = net.config.patch_size

    def encode(self, x: Tensor) -> Tensor:
        latent: Tensor = self.net.encode((x + 1) / 2).latent
        return latent

    def decode(self, raw: Tensor) -> Tensor:
        decoded: Tensor = self.net.decode(raw).sample
        return decoded * 2 - 1


NETWORKS: dict[str, type[KL | DC | RAE]] = {"AutoencoderKL": KL, "AutoencoderDC": DC, "AutoencoderRAE": RAE}


def load(name: str, place: str, subfolder: str = "") -> tuple[KL | DC | RAE, dict[str, Any]]:
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
    return NETWORKS[config["_class_name"]](network), config


def _load(place: str, subfolder: str) -> tuple[dict[str, Any], Any]:
    """config.json and the network."""
    import diffusers

    there = os.path.isdir(place)
    within = {"subfolder": subfolder} if subfolder and not (there and os.path.isfile(f"{place}/config.json")) else {}
    local = there or not hub_answers()
    config = diffusers.AutoencoderKL.load_config(place, local_files_only=local, **within)
    kind = config.get("_class_name")
    if kind not in NETWORKS:
        raise DiffxError(f"autoencoder={place} is a {kind}; type one that is {' or '.join(NETWORKS)}.")
    if not hasattr(diffusers, kind) or (kind == "AutoencoderRAE" and not diffusers.utils.is_transformers_available()):
        raise DiffxError(
            f"autoencoder={place} is a {kind}, which takes transformers and a newer diffusers than "
            f"{diffusers.__version__}, or one as new; type pip install -U diffusers transformers."
        )
    if kind == "AutoencoderRAE":
        return config, _rae(place, config, local)
    return config, getattr(diffusers, kind).from_pretrained(
        place, use_safetensors=True, low_cpu_mem_usage=False, local_files_only=local, **within
    )


RAE_WEIGHTS = "diffusion_pytorch_model.safetensors"
OF_CONFIG = ("encoder_mean", "encoder_std", "_latents_mean", "_latents_std")
RENAMED = {
    "attention.attention.query": "attention.q_proj",
    "attention.attention.key": "attention.k_proj",
    "attention.attention.value": "attention.v_proj",
    "attention.output.dense": "attention.o_proj",
}
"""What transformers 5 calls parts of a DINOv2 that were published under the names of 4. diffusers would leave them as
they were drawn, with a warning."""


def _rae(place: str, config: dict[str, Any], local: bool) -> Any:
    """diffusers' AutoencoderRAE with all weights of its file."""
    import diffusers

    here = Path(place) / RAE_WEIGHTS
    file = here if os.path.isdir(place) else Path(hf_hub_download(place, RAE_WEIGHTS, local_files_only=local))
    network: Any = diffusers.AutoencoderRAE.from_config(config)
    own = network.state_dict()
    state = {_known(key, own): tensor for key, tensor in read_weights(file).items()}
    state.pop("decoder.decoder_pos_embed", None)  # it is computed
    strange = [*(own.keys() - state.keys() - {*OF_CONFIG}), *(state.keys() - own.keys())]
    if strange:
        raise DiffxError(f"autoencoder={place}: {file.name} and diffusers' network differ in {sorted(strange)[0]}.")
    network.load_state_dict(state, strict=False)
    return network


def _known(key: str, own: Mapping[str, Any]) -> str:
    """The name that `own` has for a tensor, whichever transformers wrote it."""
    pairs = [pair for old, new in RENAMED.items() for pair in ((old, new), (new, old))]
    names = [key.replace(a, b) for a, b in pairs if key.startswith("encoder.")]
    return next((name for name in (key, *names) if name in own), key)


def scaling_of(config: Mapping[str, Any]) -> Scaling:
    """How diffusers' pipelines scale latents by config.json: by latents_mean and latents_std where it has them, and by
    scaling_factor. An RAE normalises by its own, inside."""
    if config.get("_class_name") == "AutoencoderRAE":
        return [0.0], [1.0]
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
