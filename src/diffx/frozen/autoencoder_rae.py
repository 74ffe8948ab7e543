"""Representation autoencoders (RAE, Zheng et al. 2025, arXiv 2510.11690): a frozen vision encoder's tokens are the
latent, normalised place by place, and a vision transformer decodes them."""

import json
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from diffx.backbone.layers.position import sincos_table
from diffx.errors import DiffxError
from diffx.frozen.encoder import encoder_spec
from diffx.frozen.vision import IMAGENET, pretrained, untrained
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
WEIGHTS, STATISTICS = "model.pt", "stat.pt"


class RAE(nn.Module):
    """x (B, 3, R, R) in [-1, 1] to latents (B, D, side, side) of mean 0 and variance 1 at every place, and back.

    encode: the encoder's patch tokens after a LayerNorm without affine, of the last block or summed over the blocks
    `layers`, counted from 1 (RAEv2; how its authors weigh and normalise the summands could not be established: here
    each is normalised and all weigh the same); then (token - mean) / sqrt(var + 1e-5), with mean and var of each
    channel and place. The encoder sees the image at patch·side pixels, DINOv2's 224 of 256.
    """

    posterior, dtype = False, "float16"
    mean: Tensor
    var: Tensor

    def __init__(self, encoder: Any, decoder: "Decoder", edge: int, layers: Sequence[int], colours: Any) -> None:
        super().__init__()
        self.encoder, self.decoder, self.edge = encoder, decoder, edge
        self.layers = tuple(layer - 1 for layer in layers) or (len(encoder.blocks) - 1,)
        self.channels, self.stride = encoder.embed_dim, decoder.patch
        size = (self.channels, decoder.side, decoder.side)
        self.register_buffer("mean", torch.zeros(size))
        self.register_buffer("var", torch.ones(size))
        self._colours = colours

    def encode(self, x: Tensor) -> Tensor:
        mean, std = (x.new_tensor(colour).view(1, 3, 1, 1) for colour in self._colours)
        x = F.interpolate(((x + 1) / 2 - mean) / std, size=(self.edge, self.edge), mode="bicubic")
        found = self.encoder.forward_intermediates(
            x, indices=list(self.layers), norm=False, output_fmt="NLC", intermediates_only=True
        )
        tokens = torch.stack([F.layer_norm(t, t.shape[-1:], eps=1e-6) for t in found]).sum(0)
        grid = tokens.mT.unflatten(2, (self.decoder.side, self.decoder.side))
        return (grid - self.mean) / (self.var + EPS).sqrt()

    def decode(self, raw: Tensor) -> Tensor:
        tokens = (raw * (self.var + EPS).sqrt() + self.mean).flatten(2).mT
        mean, std = (raw.new_tensor(colour).view(1, 3, 1, 1) for colour in IMAGENET)
        return (self.decoder(tokens) * std + mean) * 2 - 1


class Decoder(nn.Module):
    """MAE's decoder without its mask token: tokens (B, side², D) to an image (B, 3, R, R) in ImageNet's units.

    A learned class token stands first; positions are sin-cos, and its is zero.
    """

    position: Tensor

    def __init__(self, dim: int, config: Mapping[str, Any]) -> None:
        from timm.models.vision_transformer import Block

        super().__init__()
        width, heads = config["decoder_hidden_size"], config["decoder_num_attention_heads"]
        self.patch: int = config["patch_size"]
        self.side: int = config["image_size"] // self.patch
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
    """Whether a folder's config.json is of an RAE's decoder."""
    try:
        return "decoder_hidden_size" in json.loads((place / "config.json").read_text())
    except (OSError, ValueError):
        return False


def load(place: Path, encoder: str, layers: Sequence[int]) -> RAE:
    """An RAE from a folder: config.json (the decoder's, of MAE's names), model.pt and stat.pt. `encoder` and `layers`
    are what is known of it; config.json may name others.

    Raises:
        DiffxError: a file is missing or of another size, or no encoder is named.
    """
    config = json.loads((place / "config.json").read_text())
    encoder, layers = config.get("encoder", encoder), tuple(config.get("layers", layers))
    if not encoder:
        raise DiffxError(f'{place / "config.json"} names no encoder; add "encoder": "dinov2_vitb14_reg", or another.')
    for file, what in ((WEIGHTS, "the decoder"), (STATISTICS, "mean and var of its latents")):
        if not (place / file).is_file():
            raise DiffxError(f"{place} is an RAE without {what}; put the authors' {file} there.")
    if missing := [key for key in VIT_XL if key not in config]:
        raise DiffxError(f"{place / 'config.json'} has no {missing[0]}, which a decoder's has; put the authors' there.")
    rae = _assemble(config, encoder, layers, weights=True)
    try:
        rae.decoder.load_state_dict(decoder_weights(read_weights(place / WEIGHTS), rae.decoder), strict=True)
    except (KeyError, RuntimeError) as error:
        reason = " ".join(str(error).split())[:200]
        raise DiffxError(f"{place / WEIGHTS} is no decoder of the sizes in config.json ({reason}).") from error
    statistics = read_weights(place / STATISTICS)
    for name in ("mean", "var"):
        tensor = statistics.get(name)
        if not isinstance(tensor, Tensor):
            raise DiffxError(f"{place / STATISTICS} holds no {name} of latents; put the authors' {STATISTICS} there.")
        if tensor.shape != rae.mean.shape:
            raise DiffxError(
                f"{place / STATISTICS} is of latents {tuple(tensor.shape)}, and {encoder} gives "
                f"{tuple(rae.mean.shape)}; put the statistics of this encoder there."
            )
        rae.register_buffer(name, tensor.float())
    return rae


def sketch(config: Mapping[str, Any], encoder: str, layers: Sequence[int]) -> RAE:
    """An RAE without weights."""
    return _assemble(config, encoder, layers, weights=False)


def _assemble(config: Mapping[str, Any], encoder: str, layers: Sequence[int], weights: bool) -> RAE:
    model = encoder_spec(encoder).model
    if model is None:
        raise DiffxError(f"encoder {encoder} is no vision transformer that an RAE decodes; type dinov2_vitb14_reg.")
    side = config["image_size"] // config["patch_size"]
    edge = side * model.patch
    network = pretrained(encoder, model, edge) if weights else untrained(model, side)
    return RAE(network, Decoder(network.embed_dim, config), edge, layers, model.colours)


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
