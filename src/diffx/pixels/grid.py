"""Grids of samples as PNG files."""

from pathlib import Path

import torch
from PIL import Image
from torch import Tensor

from diffx.store.whole_file import replaced


def save_grid(images: Tensor, path: Path, columns: int = 10, least_width: int = 480) -> None:
    """Write uint8 images (N, 1 or 3, H, W) row by row as one PNG, small ones enlarged without smoothing."""
    count, channels, height, width = images.shape
    rows = -(-count // columns)
    padded = torch.zeros(rows * columns, channels, height, width, dtype=torch.uint8)
    padded[:count] = images.cpu()
    grid = padded.view(rows, columns, channels, height, width).permute(0, 3, 1, 4, 2)
    grid = grid.reshape(rows * height, columns * width, channels)
    if channels == 1:
        grid = grid.expand(-1, -1, 3)
    picture = Image.fromarray(grid.contiguous().numpy())
    scale = max(1, -(-least_width // picture.width))
    picture = picture.resize((picture.width * scale, picture.height * scale), Image.Resampling.NEAREST)
    with replaced(path) as partial:
        picture.save(partial, format="png")
