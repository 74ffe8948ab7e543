"""Several text encoders at once, joined as Stable Diffusion 3 does (Esser et al. 2024, arXiv 2403.03206, appendix B).

Encoders with a pooled vector (CLIP's) stand side by side in channels, the states of the layer before the last; behind
them in length stand the others (T5's), and what is narrower is filled up with zeros to the widest. Pooled vectors stand
side by side. Encoders and backbone attend to padding, as there. CLIP-L, CLIP-G and T5-XXL at 77 tokens make 154 tokens
of 4,096 channels and a pooled vector of 2,048.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F

from diffx.backbone import Text, TextShape
from diffx.errors import DiffxError
from diffx.frozen.text.encoder import CLIP, Reading, TextEncoder, read_config


class JoinedEncoder:
    """Prompts to one Text of several encoders; shape, facts and what it refuses as of TextEncoder."""

    def __init__(self, encoders: Sequence[TextEncoder]) -> None:
        self._pooling = [one for one in encoders if one.has_pooled]
        self._others = [one for one in encoders if not one.has_pooled]
        lengths = {one.length for one in self._pooling}
        if len(lengths) > 1:
            raise DiffxError(
                f"Encoders side by side take {' and '.join(map(str, sorted(lengths)))} tokens; give all of them one "
                "--length."
            )
        beside = sum(one.shape.channels for one in self._pooling)
        self._width = max([beside, *(one.shape.channels for one in self._others)])
        length = sum(lengths) + sum(one.length for one in self._others)
        self.shape = TextShape(length, self._width, sum(one.shape.pooled for one in self._pooling))

    def load(self) -> "JoinedEncoder":
        """Read the weights of each. Raises DiffxError where they cannot be."""
        for one in (*self._pooling, *self._others):
            one.load()
        return self

    @property
    def facts(self) -> dict[str, Any]:
        """What determines the encoding of a prompt."""
        return {"joined": [one.facts for one in (*self._pooling, *self._others)]}

    def too_long(self, prompts: Sequence[str]) -> dict[int, int]:
        """By place, the number of tokens of the prompts that have more than one of the encoders takes."""
        found: dict[int, int] = {}
        for one in (*self._pooling, *self._others):
            found |= one.too_long(prompts)
        return found

    def __call__(self, prompts: Sequence[str]) -> Text:
        """Raises DiffxError for a prompt with more tokens than one of the encoders takes; none is cut."""
        pooling, others = [one(prompts) for one in self._pooling], [one(prompts) for one in self._others]
        rows = [torch.cat([text.tokens for text in pooling], dim=2)] if pooling else []
        rows += [text.tokens for text in others]
        tokens = torch.cat([F.pad(row, (0, self._width - row.shape[2])) for row in rows], dim=1)
        pooled = torch.cat([text.pooled for text in (*pooling, *others)], dim=1)
        return Text(tokens, torch.ones(tokens.shape[:2], dtype=torch.bool), pooled)


def load_text_encoders(
    folders: Sequence[str], length: int | None = None, device: torch.device | str = "cpu"
) -> TextEncoder | JoinedEncoder:
    """The encoder of a folder, or of several joined; length: of each but CLIP's, whose own it is.

    Raises:
        DiffxError: what TextEncoder and JoinedEncoder refuse, or no folder.
    """
    return open_text_encoders(folders, length, device).load()


def open_text_encoders(
    folders: Sequence[str], length: int | None = None, device: torch.device | str = "cpu"
) -> TextEncoder | JoinedEncoder:
    """The same without their weights, which are read when they are first needed.

    Raises:
        DiffxError: what TextEncoder and JoinedEncoder refuse, or no folder.
    """
    paths = [Path(folder).expanduser() for folder in folders]
    if not paths:
        raise DiffxError("No text encoder is named; type --encoder and the folder of one.")
    if len(paths) == 1:
        return TextEncoder(paths[0], length, device)
    made = []
    for path in paths:
        is_clip = read_config(path)["model_type"] in CLIP
        made.append(TextEncoder(path, None if is_clip else length, device, Reading(-2 if is_clip else -1, True)))
    return JoinedEncoder(made)
