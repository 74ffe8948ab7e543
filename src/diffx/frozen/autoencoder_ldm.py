"""Checkpoints of CompVis' latent diffusion (taming-transformers), in which VA-VAE and REPA-E's results are published:
read as diffusers' AutoencoderKL, whose network is the same under other names."""

import re
from pathlib import Path
from typing import Any

from torch import Tensor

from diffx.errors import DiffxError
from diffx.frozen.autoencoder_diffusers import KL
from diffx.frozen.latent_statistics import is_statistics
from diffx.store.weights import read_weights

ENDINGS = (".pt", ".ckpt", ".pth", ".safetensors")
VAVAE: dict[str, Any] = {
    "block_out_channels": (128, 128, 256, 256, 512),
    "down_block_types": (*("DownEncoderBlock2D",) * 4, "AttnDownEncoderBlock2D"),
    "up_block_types": ("AttnUpDecoderBlock2D", *("UpDecoderBlock2D",) * 4),
    "layers_per_block": 2,
    "norm_num_groups": 32,
    "latent_channels": 32,
}
"""f16 with 32 channels and attention at 16x16: LightningDiT's tokenizer."""

LAYERS = {
    r"\bnin_shortcut\b": "conv_shortcut",
    r"\bnorm_out\b": "conv_norm_out",
    r"\bmid\.block_1\b": "mid_block.resnets.0",
    r"\bmid\.block_2\b": "mid_block.resnets.1",
    r"\bmid\.attn_1\b": "mid_block.attentions.0",
}
ATTENTION = {"norm": "group_norm", "q": "to_q", "k": "to_k", "v": "to_v", "proj_out": "to_out.0"}


def checkpoints(place: Path) -> list[Path]:
    """The files of weights in a folder."""
    if not place.is_dir():
        return []
    return [file for file in sorted(place.iterdir()) if file.suffix in ENDINGS and not is_statistics(file)]


def load(place: Path) -> KL:
    """The autoencoder in a folder that holds one checkpoint, whose sizes are read off its tensors.

    Raises:
        DiffxError: several checkpoints, or one of something else.
    """
    from diffusers import AutoencoderKL

    first, *more = checkpoints(place)
    if more:
        names = ", ".join(file.name for file in (first, *more))
        raise DiffxError(f"{place} holds several checkpoints ({names}); leave the one that is meant.")
    state = _own_tensors(read_weights(first), first)
    try:
        architecture = architecture_of(state)
        network: Any = AutoencoderKL(**architecture)
        levels = len(architecture["block_out_channels"])
        weights = {diffusers_key(key, levels): tensor for key, tensor in state.items()}
        own = network.state_dict()
        network.load_state_dict({key: w.reshape(own[key].shape) for key, w in weights.items()}, strict=True)
    except (KeyError, ValueError, RuntimeError) as error:
        reason = str(error).strip().partition("\n")[0]
        raise DiffxError(f"{first} is no autoencoder of latent diffusion's layout ({reason}).") from error
    return KL(network)


def _own_tensors(state: dict[str, Any], file: Path) -> dict[str, Tensor]:
    """Encoder and decoder, without losses, discriminators and the encoder that a VA-VAE was aligned with. REPA-E keeps
    its autoencoder under "vae"."""
    state = state["vae"] if isinstance(state.get("vae"), dict) else state
    parts = ("encoder.", "decoder.", "quant_conv.", "post_quant_conv.")
    found = {key: tensor for key, tensor in state.items() if key.startswith(parts) and isinstance(tensor, Tensor)}
    if "encoder.conv_in.weight" not in found or "decoder.conv_in.weight" not in found:
        raise DiffxError(f"{file} is no autoencoder of latent diffusion's layout: it has no encoder.conv_in.weight.")
    return found


def architecture_of(state: dict[str, Tensor]) -> dict[str, Any]:
    """diffusers' arguments, from the names and shapes of a checkpoint's tensors."""
    levels = 1 + max(int(found[1]) for key in state if (found := re.match(r"encoder\.down\.(\d+)\.", key)))
    per_level = 1 + max(int(found[1]) for key in state if (found := re.match(r"encoder\.down\.0\.block\.(\d+)", key)))
    attends = [f"encoder.down.{level}.attn.0.q.weight" in state for level in range(levels)]
    last = [f"encoder.down.{level}.block.{per_level - 1}.conv2.weight" for level in range(levels)]
    return {
        "block_out_channels": tuple(len(state[key]) for key in last),
        "down_block_types": tuple("AttnDownEncoderBlock2D" if on else "DownEncoderBlock2D" for on in attends),
        "up_block_types": tuple("AttnUpDecoderBlock2D" if on else "UpDecoderBlock2D" for on in reversed(attends)),
        "layers_per_block": per_level,
        "latent_channels": state["decoder.conv_in.weight"].shape[1],
        "norm_num_groups": 32,
        "use_quant_conv": "quant_conv.weight" in state,
        "use_post_quant_conv": "post_quant_conv.weight" in state,
        "mid_block_add_attention": "encoder.mid.attn_1.q.weight" in state,
    }


def diffusers_key(key: str, levels: int) -> str:
    """A tensor's name in diffusers; its decoder counts levels from the latents on, and latent diffusion's to them."""
    key = re.sub(r"\bdown\.(\d+)\.block\.", r"down_blocks.\1.resnets.", key)
    key = re.sub(r"\bdown\.(\d+)\.attn\.", r"down_blocks.\1.attentions.", key)
    key = re.sub(r"\bdown\.(\d+)\.downsample\.", r"down_blocks.\1.downsamplers.0.", key)
    for theirs, ours in (("block", "resnets"), ("attn", "attentions"), ("upsample", "upsamplers.0")):
        if found := re.search(rf"\bup\.(\d+)\.{theirs}\.", key):
            key = key.replace(found[0], f"up_blocks.{levels - 1 - int(found[1])}.{ours}.")
    for pattern, name in LAYERS.items():
        key = re.sub(pattern, name, key)
    found = re.match(r"(.*attentions\.\d+)\.(\w+)\.(weight|bias)$", key)
    return f"{found[1]}.{ATTENTION[found[2]]}.{found[3]}" if found else key
