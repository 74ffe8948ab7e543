"""Text as a condition: what an encoder makes of a caption, and how much of it a backbone takes."""

from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

from diffx.errors import DiffxError

if TYPE_CHECKING:
    from diffx.backbone.protocol import Backbone, Condition


class Text(NamedTuple):
    """Encoded captions, a row for each sample.

    tokens: (B, L, C), the encoder's hidden states. mask: (B, L) bool, true where there is a token and not padding.
    pooled: (B, P), one vector for the whole caption; P is 0 where an encoder has none.
    """

    tokens: Tensor
    mask: Tensor
    pooled: Tensor


class TextShape(NamedTuple):
    """Sizes of a Text: length L, channels C of its tokens, width P of its pooled vector."""

    length: int
    channels: int
    pooled: int = 0

    def suits(self, network: "TextShape") -> bool:
        """Whether a network that reads text of another shape can read this, whose length may be another; a network of
        no pooled vector reads none."""
        return self.channels == network.channels and network.pooled in (0, self.pooled)

    def __str__(self) -> str:
        return f"{self.length} tokens of {self.channels} channels and a pooled vector of {self.pooled}"


def blank_text(shape: TextShape, count: int) -> Text:
    """Zeros of this shape for so many samples, no place of which is padding, on torch's default device."""
    tokens, pooled = torch.zeros(count, shape.length, shape.channels), torch.zeros(count, shape.pooled)
    return Text(tokens, torch.ones(count, shape.length, dtype=torch.bool), pooled)


def blank_condition(net: "Backbone", count: int) -> "Condition":
    """Something that conditions so many samples of a backbone, where only its shape matters: label 0, or blank text."""
    return torch.zeros(count, dtype=torch.long) if net.text is None else blank_text(net.text, count)


def check_text_sizes(length: int, channels: int, pooled: int) -> None:
    """Raises DiffxError for a text that cannot be."""
    if length < 1 or channels < 1 or pooled < 0:
        raise DiffxError(
            f"backbone.text_length={length}, text_channels={channels} and pooled_channels={pooled} are no text; take "
            "those of the data, as backbone=mmdit_tiny does."
        )
