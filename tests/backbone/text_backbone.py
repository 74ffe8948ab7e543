"""A small network that text conditions, for tests of all that stands around one."""

from typing import Any

import torch
from torch import Tensor, nn

from diffx.backbone import Text, TextShape
from diffx.backbone.dit import TINY, DiT


class TextDiT(DiT):
    """A DiT whose label embedding is a layer on the mean of the tokens that are there, beside the pooled vector."""

    def __init__(
        self,
        text_length: int = 5,
        text_channels: int = 6,
        pooled_channels: int = 3,
        input_size: int = 8,
        in_channels: int = 4,
        patch_size: int = 2,
        hidden_size: int = 32,
        depth: int = 6,
        num_heads: int = 4,
    ) -> None:
        super().__init__(input_size, patch_size, in_channels, hidden_size, depth, num_heads, num_classes=1)
        self.num_classes, self.text = 0, TextShape(text_length, text_channels, pooled_channels)
        self.y_embedder = nn.Linear(text_channels + pooled_channels, hidden_size)

    def embed(self, x: Tensor, t: Tensor, y: Any, memory: Any) -> Any:
        there = y.mask[..., None].to(y.tokens)
        mean = (y.tokens * there).sum(1) / there.sum(1).clamp(min=1)
        return super().embed(x, t, torch.cat([mean, y.pooled], dim=-1), memory)

    def null_condition(self, y: Any) -> Text:
        return Text(torch.zeros_like(y.tokens), torch.ones_like(y.mask), torch.zeros_like(y.pooled))

    @classmethod
    def tiny(cls, **options: Any) -> "TextDiT":
        sizes = {key: value for key, value in TINY.items() if key != "num_classes"}
        return cls(**{**sizes, **options})
