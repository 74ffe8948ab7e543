"""CLIP's embeddings of images and prompts, of length one, from a local folder in the layout of Hugging Face."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from diffx.errors import DiffxError
from diffx.features.exact import exact_float32
from diffx.frozen.text.encoder import load_tokenizer, read_config, transformers_or_refuse, weights_of
from diffx.frozen.vision import CLIP as COLOURS


class CLIP:
    """Images uint8 (B, 1 or 3, H, W) to (B, P), and prompts to (B, P), each of length one.

    Images are resized to the model's edge, bicubic with antialiasing, and normalised by CLIP's colours. Prompts of more
    than 77 tokens are cut, as CLIP score is defined for any caption.

    Raises:
        DiffxError: the folder is not a whole CLIP, or its weights or tokenizer are not there.
    """

    def __init__(self, folder: str, device: torch.device | str = "cpu") -> None:
        path, self.device = Path(folder).expanduser(), torch.device(device)
        if read_config(path)["model_type"] != "clip":
            raise DiffxError(
                f"{path} is no whole CLIP, which has an image tower and a text tower; give another folder."
            )
        network: Any = transformers_or_refuse().CLIPModel
        try:
            network = network.from_pretrained(str(path), local_files_only=True, use_safetensors=True)
        except (OSError, ValueError, RuntimeError) as error:
            raise DiffxError(f"{path} cannot be read as a CLIP ({str(error).splitlines()[0]}).") from error
        self._network = network.float().to(self.device).eval().requires_grad_(False)
        self._tokenizer, self.identity = load_tokenizer(path), weights_of(path)
        self._edge: int = network.config.vision_config.image_size
        self._mean, self._std = (torch.tensor(colour, device=self.device).view(1, 3, 1, 1) for colour in COLOURS)

    @torch.no_grad()
    def __call__(self, images: Tensor) -> Tensor:
        x = images.to(self.device).expand(-1, 3, -1, -1).float() / 255
        x = F.interpolate(x, (self._edge, self._edge), mode="bicubic", antialias=True, align_corners=False).clamp(0, 1)
        with exact_float32(self.device):
            network = self._network
            seen = network.vision_model(pixel_values=(x - self._mean) / self._std).pooler_output
            return F.normalize(network.visual_projection(seen), dim=1)

    @torch.no_grad()
    def text(self, prompts: Sequence[str]) -> Tensor:
        """Of prompts, (N, P)."""
        most = self._network.config.text_config.max_position_embeddings
        made = self._tokenizer(list(prompts), padding=True, truncation=True, max_length=most, return_tensors="pt")
        with exact_float32(self.device):
            network = self._network
            read = network.text_model(**{key: value.to(self.device) for key, value in made.items()}).pooler_output
            return F.normalize(network.text_projection(read), dim=1)
