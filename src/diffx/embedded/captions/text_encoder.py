"""The small text encoder: a transformer over words that learns to say what a caption asks for."""

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from diffx.backbone import Text, TextShape
from diffx.data.captions import Pictures
from diffx.data.captions.language import LENGTH, PADDING, VOCABULARY, asked, spoken, tokens
from diffx.data.captions.scene import COLOURS, MOST, NONE, SHAPES, SIZES
from diffx.embedded.networks import kept, seeded
from diffx.embedded.training import descend

VERSION, SEED, STEPS = 1, 6, 700
WIDTH, HEADS, LAYERS = 64, 4, 2
SHAPE = TextShape(LENGTH, WIDTH, WIDTH)
ENCODED_AT_ONCE = 1000
OF_WORD = (len(SIZES) + 1, len(COLOURS) + 1, len(SHAPES), MOST)
"""Logits of a shape's word: its size and colour, the last being unsaid, its outline, and its place in the scene."""
OF_TEXT = (MOST, 3)
"""Logits of the pooled vector: the number of shapes, and column, row or unsaid."""


class TextNetwork(nn.Module):
    """Words int64 (B, L) -> Text: hidden states (B, L, 64) behind a last norm, and the mean of those of words."""

    def __init__(self) -> None:
        super().__init__()
        self.words = nn.Embedding(VOCABULARY, WIDTH)
        self.places = nn.Parameter(0.02 * torch.randn(LENGTH, WIDTH))
        layer = nn.TransformerEncoderLayer(WIDTH, HEADS, 4 * WIDTH, 0.0, "gelu", batch_first=True, norm_first=True)
        self.layers = nn.TransformerEncoder(layer, LAYERS, nn.LayerNorm(WIDTH), enable_nested_tensor=False)
        self.of_word = nn.Linear(WIDTH, sum(OF_WORD))
        self.of_text = nn.Linear(WIDTH, sum(OF_TEXT))

    def forward(self, ids: Tensor) -> Text:
        mask = ids != PADDING
        hidden = self.layers(self.words(ids) + self.places, src_key_padding_mask=~mask) * mask[..., None]
        return Text(hidden, mask, hidden.sum(1) / mask.sum(1, keepdim=True))

    def logits(self, ids: Tensor) -> tuple[Tensor, ...]:
        """(B, L, K) of every word, one tensor for each of OF_WORD; and (B, 1, K) for each of OF_TEXT."""
        text = self(ids)
        of_word, of_text = self.of_word(text.tokens), self.of_text(text.pooled[:, None])
        return (*of_word.split(OF_WORD, dim=2), *of_text.split(OF_TEXT, dim=2))


class TextEncoder:
    """Prompts to Text, float32 on the CPU; SHAPE says the sizes. identity: which weights."""

    def __init__(self, pictures: Pictures) -> None:
        self.network = kept(f"{pictures.name}-text", facts(pictures), TextNetwork, lambda: train(pictures))

    @torch.no_grad()
    def __call__(self, prompts: Sequence[str]) -> Text:
        """Raises DiffxError for a word that it does not know, or a prompt that is too long."""
        parts = torch.from_numpy(tokens(prompts)).split(ENCODED_AT_ONCE)
        return Text(*(torch.cat(column) for column in zip(*map(self.network, parts), strict=True)))


def facts(pictures: Pictures) -> dict[str, Any]:
    """Everything that says which network it is."""
    return {"role": "text", "data": pictures.identity, "version": VERSION, "steps": STEPS, "width": WIDTH}


def train(pictures: Pictures) -> tuple[TextNetwork, dict[str, Any]]:
    """The encoder, and the share of held-out captions all of which it has understood; no training caption has one of
    the held-out compositions."""
    captions, unknown = pictures.captions(), pictures.prompts()
    ids, wanted = torch.from_numpy(tokens(captions)), targets(captions)
    with seeded(SEED), torch.enable_grad():
        network = TextNetwork()

        def loss(chosen: Tensor) -> Tensor:
            parts = zip(network.logits(ids[chosen]), wanted, strict=True)
            losses = [F.cross_entropy(part.flatten(0, 1), target[chosen].flatten(), ignore_index=-1)
                      for part, target in parts]  # fmt: skip
            return torch.stack(losses).sum()

        descend("text encoder", len(ids), list(network.parameters()), loss, STEPS)
    network.eval().requires_grad_(False)
    notes = {"captions_understood": understood(network, unknown)}
    print(f"embedded text encoder: {notes['captions_understood']:.1%} of held-out captions are understood in full")
    return network, notes


def understood(network: TextNetwork, captions: Sequence[str]) -> float:
    """The share of captions of which the heads find everything that is asked for."""
    parts = zip(network.logits(torch.from_numpy(tokens(captions))), targets(captions), strict=True)
    right = [((part.argmax(2) == target) | (target < 0)).all(1) for part, target in parts]
    return torch.stack(right).all(0).float().mean().item()


def targets(captions: Sequence[str]) -> list[Tensor]:
    """The class of each of OF_WORD (N, L), -1 at words that are no shape's, and of OF_TEXT (N, 1)."""
    words = torch.full((len(OF_WORD), len(captions), LENGTH), -1)
    whole = torch.zeros(len(OF_TEXT), len(captions), 1, dtype=torch.long)
    for number, caption in enumerate(captions):
        objects, row = asked(caption)
        for place, order in spoken(caption):
            said = [
                most - 1 if value == NONE else int(value) for most, value in zip(OF_WORD, objects[order], strict=False)
            ]
            words[:, number, place] = torch.tensor([*said, order])
        whole[:, number, 0] = torch.tensor([len(objects) - 1, 2 if row == NONE else row])
    return [*words, *whole]
