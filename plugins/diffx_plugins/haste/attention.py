"""The service attention/ENCODER: what a vision transformer attends to."""

import torch
from torch import Tensor

from diffx.assemble.services import Surroundings
from diffx.backbone import Backbone
from diffx.errors import DiffxError
from diffx.frozen.encoder import check_grid, encoder_spec, find_encoder
from diffx.frozen.vision import VisionEncoder

LAYERS = 4
HEADS = 12  # of the stand-in: those of a ViT-B


class AttentionEncoder:
    """Images -> tokens (B, N, dim), and logits (B, LAYERS, H, N, N) before the softmax of the last layers, q·k / √d in
    float32 without the rows and columns of class and register tokens. Both come out of one forward."""

    def __init__(self, encoder: VisionEncoder) -> None:
        self._encoder, self._products = encoder, list[Tensor]()
        for block in encoder.network.blocks[-LAYERS:]:
            block.attn.qkv.register_forward_hook(lambda layer, given, out: self._products.append(out))

    @torch.no_grad()
    def __call__(self, image: Tensor) -> tuple[Tensor, Tensor]:
        self._products.clear()
        tokens = self._encoder(image)
        network, logits = self._encoder.network, []
        for block, product in zip(network.blocks[-LAYERS:], self._products, strict=True):
            heads = product.unflatten(-1, (3, block.attn.num_heads, -1)).permute(2, 0, 3, 1, 4)
            q, k = (part[:, :, network.num_prefix_tokens :] for part in heads[:2])
            q, k = block.attn.q_norm(q).float(), block.attn.k_norm(k).float()
            logits.append(q @ k.transpose(-2, -1) * block.attn.scale)
        self._products.clear()
        return tokens, torch.stack(logits, dim=1)


class Attention:
    """Provides attention/ENCODER for the vision transformers whose layers multiply queries with keys as they are."""

    def check(self, name: str, around: Surroundings) -> None:
        spec = encoder_spec(name)
        if spec.model is None or spec.family == "dinov3":
            raise DiffxError(
                f"encoder {name} has no attention that can be read as queries times keys; type an encoder that has, "
                "such as plugins.haste.encoder=dinov2_vitb14."
            )
        check_grid(spec, name, around.image_size, around.backbone.side)

    def stand_in(self, name: str, backbone: Backbone) -> "StandIn":
        return StandIn(encoder_spec(name).dim, backbone.grid_tokens)

    def find(self, name: str) -> None:
        find_encoder(name)

    def make(self, name: str, around: Surroundings) -> AttentionEncoder:
        self.check(name, around)
        model = encoder_spec(name).model
        assert model is not None
        return AttentionEncoder(VisionEncoder(name, model, around.backbone.side, around.device))


class StandIn:
    """Zeros of the right shapes."""

    def __init__(self, dim: int, tokens: int) -> None:
        self.dim, self.tokens = dim, tokens

    def __call__(self, image: Tensor) -> tuple[Tensor, Tensor]:
        batch, tokens = len(image), self.tokens
        return torch.zeros(batch, tokens, self.dim), torch.zeros(batch, LAYERS, HEADS, tokens, tokens)
