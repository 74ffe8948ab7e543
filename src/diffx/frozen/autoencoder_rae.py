"""Representation autoencoders (RAE, Zheng et al. 2025, arXiv 2510.11690): a frozen vision encoder's tokens are the
latent, normalised place by place, and a vision transformer decodes them."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from diffx.backbone.layers.position import sincos_table
from diffx.errors import DiffxError
from diffx.frozen.encoder import encoder_spec
from diffx.frozen.vision import pretrained, untrained
from diffx.store.weights import read_weights

VIT_XL: dict[str, Any] = {
    "decoder_hidden_size": 1152,
    "decoder_num_hidden_layers": 28,
    "decoder_num_attention_heads": 16,
    "decoder_intermediate_size": 4096,
    "patch_size": 16,
    "image_size": 256,
}
EPS = 1e-5  # of the normalisation
PATCH = 16  # where config.json leaves it open, as the authors' does
WEIGHTS, STATISTICS = ("model.pt", "decoder.pt"), ("stat.pt", "stats.pt")  # RAE's names, and RAEv2's


@dataclass(frozen=True)
class Recipe:
    """How an encoder's tokens become latents, and what the decoder says of a pixel.

    encoder: its name. layers: blocks, counted from 1; () is the last alone. levels: the decoder gives levels in [0, 1]
    (RAEv2), else what the encoder is shown, levels less their mean in units of their deviation (RAE).
    """

    encoder: str = ""
    layers: tuple[int, ...] = ()
    levels: bool = False


class RAE(nn.Module):
    """x (B, 3, R, R) in [-1, 1] to latents (B, D, side, side) of mean 0 and variance 1 at every place, and back.

    encode: the encoder's patch tokens after its last LayerNorm, but without that one's affine; then
    (token - mean) / sqrt(var + 1e-5), with mean and var of each channel and place. The encoder sees the image at
    patch·side pixels, DINOv2's 224 of 256. Over several layers (RAEv2, arXiv 2605.18324; nanovisionx/RAEv2) the
    normalised tokens are averaged, and the mean over all places of the last layer's is added at every place.

    timm computes the periods of DINOv3's rotary positions in float32, and Meta's file has them rounded to bfloat16.
    """

    posterior, dtype = False, "float16"
    mean: Tensor
    var: Tensor

    def __init__(self, encoder: Any, decoder: "Decoder", edge: int, recipe: Recipe, colours: Any) -> None:
        super().__init__()
        self.encoder, self.decoder, self.edge, self.recipe = encoder, decoder, edge, recipe
        self.channels, self.stride = encoder.embed_dim, decoder.patch
        size = (self.channels, decoder.side, decoder.side)
        self.register_buffer("mean", torch.zeros(size))
        self.register_buffer("var", torch.ones(size))
        self._colours = colours

    def encode(self, x: Tensor) -> Tensor:
        mean, std = self._mean_and_std(x)
        x = (x + 1) / 2
        if x.shape[-2:] != (self.edge, self.edge):
            x = F.interpolate(x, size=(self.edge, self.edge), mode="bicubic")
        blocks = [layer - 1 for layer in self.recipe.layers] or [len(self.encoder.blocks) - 1]
        found = self.encoder.forward_intermediates(
            (x - mean) / std, indices=blocks, norm=False, output_fmt="NLC", intermediates_only=True
        )
        eps = getattr(self.encoder.norm, "eps", 1e-6)
        tokens = torch.stack([F.layer_norm(t, t.shape[-1:], eps=eps) for t in found])
        read = tokens.mean(0) + tokens[-1].mean(1, keepdim=True) if self.recipe.layers else tokens[-1]
        grid = read.mT.unflatten(2, (self.decoder.side, self.decoder.side))
        return (grid - self.mean) / (self.var + EPS).sqrt()

    def decode(self, raw: Tensor) -> Tensor:
        image: Tensor = self.decoder((raw * (self.var + EPS).sqrt() + self.mean).flatten(2).mT)
        if not self.recipe.levels:
            mean, std = self._mean_and_std(raw)
            image = image * std + mean
        return image * 2 - 1

    def _mean_and_std(self, like: Tensor) -> tuple[Tensor, Tensor]:
        mean, std = (like.new_tensor(colour).view(1, 3, 1, 1) for colour in self._colours)
        return mean, std


class Decoder(nn.Module):
    """MAE's decoder without its mask token: tokens (B, side², D) to an image (B, 3, side·patch, side·patch).

    A learned class token stands first; positions are sin-cos, and its is zero.
    """

    position: Tensor

    def __init__(self, dim: int, config: Mapping[str, Any], side: int, patch: int) -> None:
        from timm.models.vision_transformer import Block

        super().__init__()
        width, heads = config["decoder_hidden_size"], config["decoder_num_attention_heads"]
        self.side, self.patch = side, patch
        ratio = config["decoder_intermediate_size"] / width
        norm: Any = partial(nn.LayerNorm, eps=config.get("layer_norm_eps", 1e-12))
        self.embed = nn.Linear(dim, width)
        self.class_token = nn.Parameter(torch.zeros(1, 1, width))
        self.register_buffer("position", F.pad(sincos_table(width, self.side), (0, 0, 1, 0))[None])
        self.blocks = nn.ModuleList(
            Block(width, heads, ratio, qkv_bias=True, norm_layer=norm)
            for _ in range(config["decoder_num_hidden_layers"])
        )
        self.norm = norm(width)
        self.predict = nn.Linear(width, self.patch**2 * 3)

    def forward(self, tokens: Tensor) -> Tensor:
        x = torch.cat([self.class_token.expand(len(tokens), -1, -1), self.embed(tokens)], dim=1) + self.position
        for block in self.blocks:
            x = block(x)
        patches = self.predict(self.norm(x))[:, 1:].unflatten(2, (self.patch**2, 3)).mT
        return F.fold(patches.flatten(2).mT, self.side * self.patch, self.patch, stride=self.patch)


def is_rae(place: Path) -> bool:
    """Whether a folder holds an RAE in its authors' files."""
    if not (place / "config.json").is_file():
        return any((place / name).is_file() for name in STATISTICS)
    try:
        config = json.loads((place / "config.json").read_text())
    except (OSError, ValueError):
        return False
    return "decoder_hidden_size" in config and "_class_name" not in config  # that is diffusers' AutoencoderRAE


def load(place: Path, recipe: Recipe, architecture: Mapping[str, Any]) -> RAE:
    """An RAE from a folder: weights of the decoder, statistics, and the decoder's config.json (of MAE's names), which
    may be left out where `architecture` is known. config.json may also name encoder, layers and levels of a Recipe. The
    grid is that of the statistics: the authors' config.json says neither patch nor image.

    Raises:
        DiffxError: a file is missing or of another size, or no encoder is named.
    """
    file = place / "config.json"
    config = {**architecture, **(json.loads(file.read_text()) if file.is_file() else {})}
    recipe = Recipe(
        config.get("encoder", recipe.encoder),
        tuple(config.get("layers", recipe.layers)),
        config.get("levels", recipe.levels),
    )
    if not recipe.encoder:
        raise DiffxError(f'{file} names no encoder; add "encoder": "dinov2_vitb14_reg", or another.')
    weights = _file(place, WEIGHTS, "the decoder")
    mean, var = _statistics(_file(place, STATISTICS, "mean and var of its latents"), recipe)
    if missing := [key for key in VIT_XL if key.startswith("decoder_") and key not in config]:
        raise DiffxError(f"{file} has no {missing[0]}, which a decoder's has; put the authors' there.")
    patch = config.get("patch_size")
    rae = _assemble(config, recipe, mean.shape[-1], patch if isinstance(patch, int) else PATCH, weights=True)
    try:
        rae.decoder.load_state_dict(decoder_weights(read_weights(weights), rae.decoder), strict=True)
    except (KeyError, RuntimeError) as error:
        reason = " ".join(str(error).split())[:200]
        raise DiffxError(f"{weights} is no decoder of the sizes in config.json ({reason}).") from error
    rae.register_buffer("mean", mean)
    rae.register_buffer("var", var)
    return rae


def _file(place: Path, names: Sequence[str], what: str) -> Path:
    for name in names:
        if (place / name).is_file():
            return place / name
    raise DiffxError(f"{place} is an RAE without {what}; put the authors' {' or '.join(names)} there.")


def _statistics(file: Path, recipe: Recipe) -> tuple[Tensor, Tensor]:
    """Mean and variance (D, side, side) of the encoder's tokens."""
    found = read_weights(file)
    for name in ("mean", "var"):
        if not isinstance(found.get(name), Tensor):
            raise DiffxError(f"{file} holds no {name} of latents; put the authors' {file.name} there.")
    mean, var = found["mean"].float(), found["var"].float()
    dim = encoder_spec(recipe.encoder).dim
    if mean.ndim != 3 or len(mean) != dim or mean.shape[1] != mean.shape[2] or var.shape != mean.shape:
        raise DiffxError(
            f"{file} is of latents {tuple(mean.shape)} and {tuple(var.shape)}, and {recipe.encoder} gives "
            f"({dim}, side, side); put the statistics of this encoder there."
        )
    return mean, var


def sketch(config: Mapping[str, Any], recipe: Recipe) -> RAE:
    """An RAE without weights."""
    return _assemble(config, recipe, config["image_size"] // config["patch_size"], config["patch_size"], weights=False)


def _assemble(config: Mapping[str, Any], recipe: Recipe, side: int, patch: int, weights: bool) -> RAE:
    model = encoder_spec(recipe.encoder).model
    if model is None:
        raise DiffxError(
            f"encoder {recipe.encoder} is no vision transformer that an RAE decodes; type dinov2_vitb14_reg."
        )
    edge = side * model.patch
    network = pretrained(recipe.encoder, model, edge) if weights else untrained(model, side)
    return RAE(network, Decoder(network.embed_dim, config, side, patch), edge, recipe, model.colours)


def decoder_weights(state: dict[str, Tensor], decoder: Decoder) -> dict[str, Tensor]:
    """The authors' tensors, named as in transformers' ViTMAE, under the names of Decoder."""
    state = {key.removeprefix("decoder."): tensor for key, tensor in state.items()}
    named = {
        "class_token": state["trainable_cls_token"],
        "position": state.get("decoder_pos_embed", decoder.position),
    }
    for ours, theirs in (("embed", "decoder_embed"), ("norm", "decoder_norm"), ("predict", "decoder_pred")):
        named |= {f"{ours}.{kind}": state[f"{theirs}.{kind}"] for kind in ("weight", "bias")}
    for i in range(len(decoder.blocks)):
        own, theirs = f"blocks.{i}", f"decoder_layers.{i}"
        for kind in ("weight", "bias"):
            qkv = [state[f"{theirs}.attention.attention.{part}.{kind}"] for part in ("query", "key", "value")]
            named[f"{own}.attn.qkv.{kind}"] = torch.cat(qkv)
            for a, b in (
                ("attn.proj", "attention.output.dense"),
                ("norm1", "layernorm_before"),
                ("norm2", "layernorm_after"),
                ("mlp.fc1", "intermediate.dense"),
                ("mlp.fc2", "output.dense"),
            ):
                named[f"{own}.{a}.{kind}"] = state[f"{theirs}.{b}.{kind}"]
    return named
