"""One frozen text encoder: CLIP's text tower, T5's encoder, or a decoder language model's hidden states.

A folder is as Hugging Face lays it out: config.json, *.safetensors, and the tokenizer's files in it, or where a
pipeline of diffusers has them (text_encoder_2 goes with tokenizer_2 beside it). Nothing is downloaded, only safetensors
are read, and no code of a folder is run.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from diffx.backbone import Text, TextShape
from diffx.errors import DiffxError

LENGTH = 256
"""Tokens of a prompt where an encoder sets no limit of its own: T5's in Stable Diffusion 3 (Esser et al. 2024)."""
CLIP, T5 = ("clip", "clip_text_model"), ("t5", "umt5")
NEEDS = "Text encoders are read by transformers; type pip install 'diffx-train[text]'."


@dataclass(frozen=True)
class Reading:
    """How hidden states are read. layer: -1 is the last, behind its norm; -2 the one before, without a norm.
    sees_padding: the encoder attends to padding too, and so does the backbone, as in Stable Diffusion 3."""

    layer: int = -1
    sees_padding: bool = False


class TextEncoder:
    """Prompts to Text, float32 on the CPU: tokens are hidden states (B, L, C); the pooled vector is of CLIP alone, the
    state at the end of the text, projected where the file has a projection.

    shape: of the Text, which config.json says; weights are read by load(), or when they are first needed. facts: what
    it is, for manifests and hashes. It computes in float32.

    Args:
        folder: of the weights.
        length: tokens of a prompt, padding included; None: what the encoder's positions allow (CLIP: 77), else 256.
        reading: how hidden states are read.

    Raises:
        DiffxError: transformers, the folder, its weights or its tokenizer are not there, or the length cannot be.
    """

    def __init__(
        self,
        folder: Path,
        length: int | None = None,
        device: torch.device | str = "cpu",
        reading: Reading | None = None,
    ) -> None:
        config = read_config(folder)
        self.kind = str(config.get("model_type"))
        self.reading, self.device, self.folder = reading or Reading(), torch.device(device), folder
        self._tokenizer = load_tokenizer(folder)
        self._config, sizes = config, _sizes(folder)
        most = getattr(sizes, "max_position_embeddings", None) if self.kind in CLIP else None
        self.length = length or most or LENGTH
        if most is not None and self.length > most:
            raise DiffxError(f"--length {length}: {folder} takes {most} tokens; type --length {most}.")
        width = sizes.d_model if self.kind in T5 else sizes.hidden_size
        self.has_pooled = self.kind in CLIP
        pooled = (sizes.projection_dim if _projects(config) else sizes.hidden_size) if self.has_pooled else 0
        self.shape = TextShape(self.length, width, pooled)

    def load(self) -> "TextEncoder":
        """Read the weights. Raises DiffxError where they cannot be."""
        assert self._network is not None
        return self

    @cached_property
    def _network(self) -> Any:
        return _load_network(self.folder, self._config).to(self.device).eval().requires_grad_(False)

    @property
    def facts(self) -> dict[str, Any]:
        """What determines the encoding of a prompt."""
        layer, padding = self.reading.layer, self.reading.sees_padding
        return {"kind": self.kind, "length": self.length, "layer": layer, "sees_padding": padding,
                "shape": list(self.shape), "weights": weights_of(self.folder)}  # fmt: skip

    def too_long(self, prompts: Sequence[str]) -> dict[int, int]:
        """By place, the number of tokens of the prompts that have more than the encoder takes."""
        if not prompts:
            return {}
        counts = [len(ids) for ids in self._tokenizer(list(prompts), truncation=False, verbose=False)["input_ids"]]
        return {place: count for place, count in enumerate(counts) if count > self.length}

    @torch.no_grad()
    def __call__(self, prompts: Sequence[str]) -> Text:
        """Raises DiffxError for a prompt with more tokens than the encoder takes; none is cut."""
        for place, count in self.too_long(prompts).items():
            raise DiffxError(
                f"The prompt {prompts[place][:60]!r} has {count} tokens, and {self.folder} takes {self.length}; type a "
                "shorter one."
            )
        made = self._tokenizer(list(prompts), padding="max_length", max_length=self.length, return_tensors="pt")
        ids, mask = made["input_ids"].to(self.device), made["attention_mask"].to(self.device)
        # CLIP attends backwards alone, and pads behind the end: its states of words are the same with and without.
        seen = {} if self.reading.sees_padding or self.kind in CLIP else {"attention_mask": mask}
        out = self._network(input_ids=ids, output_hidden_states=True, **seen)
        states = out.last_hidden_state if self.reading.layer == -1 else out.hidden_states[self.reading.layer]
        present = torch.ones_like(mask) if self.reading.sees_padding else mask
        return Text(states.float().cpu(), present.bool().cpu(), self._pooled(out, states))

    def _pooled(self, out: Any, states: Tensor) -> Tensor:
        if not self.has_pooled:
            return torch.zeros(len(states), 0)
        pooled: Tensor = out.text_embeds if _projects(self._config) else out.pooler_output
        return pooled.float().cpu()


def load_text_encoder(folder: str, length: int | None = None, device: torch.device | str = "cpu") -> TextEncoder:
    """The encoder in a folder, read as its last hidden states."""
    return TextEncoder(Path(folder).expanduser(), length, device).load()


def read_config(folder: Path) -> dict[str, Any]:
    """config.json. Raises DiffxError where the folder is none of an encoder."""
    try:
        config = json.loads((folder / "config.json").read_text())
    except (OSError, ValueError) as error:
        raise DiffxError(
            f"{folder} holds no text encoder ({error}); give the folder of a download, with config.json, *.safetensors "
            "and its tokenizer."
        ) from error
    if not isinstance(config, dict) or "model_type" not in config:
        raise DiffxError(f"{folder / 'config.json'} names no model_type, so that nothing says which encoder it is.")
    if not list(folder.glob("*.safetensors")):
        raise DiffxError(f"{folder} has no *.safetensors; other files of weights can run code and are not read.")
    return config


def weights_of(folder: Path) -> str:
    """What tells these weights from others without reading gigabytes: the headers of their files."""
    from diffx.store.digest import digest

    heads = {}
    for file in sorted(folder.glob("*.safetensors")):
        with file.open("rb") as opened:
            size = int.from_bytes(opened.read(8), "little")
            opened.seek(8 + size)
            heads[file.name] = [file.stat().st_size, opened.read(4096).hex()]
    return digest(heads)


def _projects(config: dict[str, Any]) -> bool:
    """Whether CLIP's file has a projection of its pooled vector."""
    return config.get("architectures") != ["CLIPTextModel"]


def _sizes(folder: Path) -> Any:
    """The configuration of the network that reads text, with what config.json leaves at its default."""
    transformers = transformers_or_refuse()
    try:
        config = transformers.AutoConfig.from_pretrained(str(folder), local_files_only=True, trust_remote_code=False)
    except (OSError, ValueError, KeyError) as error:
        raise DiffxError(f"{folder / 'config.json'} cannot be read ({str(error).splitlines()[0]}).") from error
    return config.text_config if config.model_type == "clip" else config


def _load_network(folder: Path, config: dict[str, Any]) -> Any:
    transformers = transformers_or_refuse()
    kind = config["model_type"]
    make: Any
    if kind in CLIP:
        make = transformers.CLIPTextModelWithProjection if _projects(config) else transformers.CLIPTextModel
    elif kind in T5:
        make = transformers.T5EncoderModel if kind == "t5" else transformers.UMT5EncoderModel
    else:
        make = transformers.AutoModel
    try:
        return make.from_pretrained(
            str(folder), local_files_only=True, use_safetensors=True, trust_remote_code=False, dtype=torch.float32
        )
    except (OSError, ValueError, RuntimeError, KeyError) as error:
        raise DiffxError(f"{folder} cannot be read as {make.__name__} ({str(error).splitlines()[0]}).") from error


def load_tokenizer(folder: Path) -> Any:
    """The tokenizer in the folder, or the one that goes with it in a pipeline. It pads behind the text."""
    transformers = transformers_or_refuse()
    beside = folder.parent / folder.name.replace("text_encoder", "tokenizer")
    names = ("tokenizer.json", "tokenizer_config.json", "vocab.json", "spiece.model")
    home = next((place for place in (folder, beside) if any((place / name).exists() for name in names)), None)
    if home is None:
        raise DiffxError(
            f"{folder} has no tokenizer, and neither has {beside}; copy tokenizer.json and its like there."
        )
    try:
        tokenizer = transformers.AutoTokenizer.from_pretrained(
            str(home), local_files_only=True, trust_remote_code=False, padding_side="right"
        )
    except (OSError, ValueError, ImportError, KeyError) as error:
        raise DiffxError(f"The tokenizer in {home} cannot be read ({str(error).splitlines()[0]}).") from error
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def transformers_or_refuse() -> Any:
    """The package. Raises DiffxError where it is not installed."""
    try:
        import transformers
    except ImportError as error:
        raise DiffxError(NEEDS) from error
    return transformers
