"""Encoders with random weights: as fast as the published ones, which are not needed here."""

import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from unittest import mock

import torch
from safetensors.torch import save_file
from torch import Tensor

from diffx.assemble.services import make_encoder
from diffx.errors import DiffxError
from diffx.frozen.encoder import encoder_spec
from diffx.frozen.vision import untrained


def random_encoder(name: str, side: int, device: torch.device) -> Callable[[Tensor], Tensor]:
    """timm's encoder `name` for a grid of side² tokens, read from a file as the published weights are.

    Raises:
        DiffxError: the embedded one, which is trained from the data.
    """
    model = encoder_spec(name).model
    if model is None:
        raise DiffxError(f"plugins.repa.encoder={name} is none of timm's; type plugins.repa.encoder=dinov2_vitb14.")
    weights = {model.keys + key: value for key, value in untrained(model, side).state_dict().items()}
    with tempfile.TemporaryDirectory() as folder, mock.patch.dict(os.environ, DIFFX_WEIGHTS=folder):
        save_file(weights, Path(folder) / f"{name}.safetensors")
        return make_encoder(name, None, side, device)
