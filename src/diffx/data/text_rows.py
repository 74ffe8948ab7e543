"""Encoded captions as rows of shards: hidden states, pooled vector, and the number of tokens, one after the other."""

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from diffx.backbone import Text, TextShape
from diffx.data.prompts import Prompt, read_prompts
from diffx.data.remote_shards import open_rows
from diffx.data.shards import join
from diffx.data.stream import Joined
from diffx.errors import DiffxError
from diffx.store.bounded import BoundedFolder
from diffx.store.digest import digest
from diffx.store.remote import RemotePath

FOLDER = "text"
"""In a prepared data set, beside latents and images."""


def row_of(text: Text) -> NDArray[np.float32]:
    """Text of N captions as rows (N, L·C + P + 1). Of a mask the number of tokens is kept: padding stands behind."""
    present = text.mask.sum(1, keepdim=True).to(text.tokens)
    rows: NDArray[np.float32] = torch.cat([text.tokens.flatten(1), text.pooled, present], dim=1).numpy()
    return rows


def text_of(rows: NDArray[Any], shape: Sequence[int]) -> Text:
    """What row_of was given, in float32."""
    length, channels, pooled = TextShape(*shape)
    states, vector, present = torch.from_numpy(rows).float().split([length * channels, pooled, 1], dim=1)
    return Text(states.unflatten(1, (length, channels)), torch.arange(length) < present, vector)


class EncodedCaptions:
    """The encoded captions of a prepared data set, joined by key with its samples, and the encoders that made them.

    Args:
        root: of the data set. keys: of its samples. prompts: a file of those that a run is measured by; None: there are
            none, and nothing can be measured. kept: where rows behind a URL are kept.

    Raises:
        DiffxError: nothing is prepared, a sample has no caption, or the prompts cannot be read.
    """

    def __init__(
        self,
        root: Path | RemotePath,
        keys: NDArray[np.bytes_],
        prompts: str | None,
        kept: BoundedFolder | None = None,
    ) -> None:
        self._shards = open_rows(root / FOLDER, f"`python -m diffx.prepare text SRC {root} --encoder FOLDER`")
        self._facts = self._shards.manifest["facts"]
        self.shape = TextShape(*self._facts["text"])
        rows = join(keys, self._shards.index()[0])
        if (missing := np.flatnonzero(rows < 0)).size:
            raise DiffxError(
                f"{root / FOLDER} has no caption of {missing.size} of {len(keys)} samples, the first "
                f"{keys[missing[0]].decode()}; type `python -m diffx.prepare text` with --missing empty in another "
                "folder, or prepare the images that have one."
            )
        self.rows = Joined(self._shards, rows, kept)
        self.prompts: list[Prompt] = read_prompts(Path(prompts)) if prompts else []
        self.identity = digest({"text": self._shards.manifest["checksum"], "encoders": self._facts["identity"]})
        self.cost: dict[str, float] = self._shards.manifest["cost"]

    def read(self, place: NDArray[np.int64]) -> Text:
        """Of the samples at these places."""
        return text_of(self.rows.read(place), self.shape)

    def encode(self, prompts: Sequence[str]) -> Text:
        """Prompts as the captions were encoded.

        Raises:
            DiffxError: the encoders are not where they were, are others now, or take fewer tokens than a prompt has.
        """
        return self._encoder(prompts)

    @cached_property
    def _encoder(self) -> Any:
        from diffx.frozen.text import load_text_encoders

        encoder = load_text_encoders(self._facts["encoders"], self._facts["length"])
        if digest(encoder.facts) != self._facts["identity"]:
            raise DiffxError(
                f"{', '.join(self._facts['encoders'])} are other encoders than those that made "
                f"{self._shards.folder}; bring those back, or prepare the captions anew."
            )
        return encoder

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name != "_encoder"}
