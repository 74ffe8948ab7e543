"""Pictures with words under them, as a PNG file."""

import textwrap
from collections.abc import Sequence
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from diffx.store.whole_file import replaced

LEAST, FONT, LINE, LINES = 144, 12, 15, 4
"""Pixels of a picture's width at the least, of the letters, of a line, and how many lines there are for a caption."""


SHOWN = 50  # images in a picture


def save_captioned(images: Tensor, prompts: Sequence[str], path: Path, columns: int = 5) -> None:
    """Write the first of uint8 images (N, 1 or 3, H, W), the i-th with prompt i mod their number below, row by row as
    one PNG; small ones enlarged without smoothing. Of a prompt that is too long for the room under a picture the end is
    left out, with a mark."""
    images = images[:SHOWN]
    count, _, height, width = images.shape
    scale = max(1, -(-LEAST // width))
    wide, tall = width * scale, height * scale
    cell = tall + LINES * LINE + 8
    page = Image.new("RGB", (columns * (wide + 8), -(-count // columns) * cell), "white")
    pen, font = ImageDraw.Draw(page), ImageFont.load_default(FONT)
    for place, image in enumerate(images):
        left, top = place % columns * (wide + 8) + 4, place // columns * cell
        picture = Image.fromarray(image.expand(3, -1, -1).permute(1, 2, 0).cpu().contiguous().numpy())
        page.paste(picture.resize((wide, tall), Image.Resampling.NEAREST), (left, top))
        lines = textwrap.wrap(prompts[place % len(prompts)], wide // 6, max_lines=LINES, placeholder=" …")
        for number, line in enumerate(lines):
            pen.text((left, top + tall + 2 + number * LINE), line, fill="black", font=font)
    with replaced(path) as partial:
        page.save(partial, format="png")
