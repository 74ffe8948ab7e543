"""Encoded pictures of strangers as RGB: what is no file, too large or damaged is refused before it costs anything."""

import io
import os
import re
import stat
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from PIL import Image, UnidentifiedImageError

FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "AVIF", "GIF", "TIFF", "PPM")
"""What is decoded, whatever a file is called. Pillow knows more, and for one of them (EPS) starts another program."""

ADDRESS = re.compile(r" at 0x[0-9a-f]+")
"""Of an object in memory, in what a decoder says: another one each time, so that two runs would disagree."""

MOST_PIXELS = 100_000_000
MOST_BYTES = 100_000_000


class Refused(ValueError):
    """Why a picture is left out, in the words that follow its name."""


def read_file(path: str | Path, most: int = MOST_BYTES, offset: int = 0, size: int | None = None) -> bytes:
    """`size` bytes at `offset`, or all of a file.

    Raises:
        Refused: not a regular file (a pipe would be waited for), empty, or of more than `most` bytes.
        OSError: it cannot be read.
    """
    with os.fdopen(os.open(path, os.O_RDONLY | os.O_NONBLOCK), "rb") as file:
        facts = os.fstat(file.fileno())
        if not stat.S_ISREG(facts.st_mode):
            raise Refused("is no regular file")
        size = facts.st_size - offset if size is None else size
        check_bytes(size, most)
        file.seek(offset)
        return file.read(size)


def check_bytes(size: int, most: int) -> None:
    """Raises Refused for an encoded picture of no bytes, or of more than `most`."""
    if size <= 0:
        raise Refused("is empty")
    if size > most:
        raise Refused(f"has {size} bytes, more than {most}")


def decode(encoded: bytes, most: int = MOST_PIXELS) -> Image.Image:
    """The picture as RGB. `most`: pixels that it may have, compared before they are decoded.

    Raises:
        Refused: too many pixels, or damaged in whatever way: every decoder has errors of its own kinds.
    """
    try:
        with Image.open(io.BytesIO(encoded), formats=FORMATS) as image:
            check_pixels(image.width, image.height, most)
            return image.convert("RGB")
    except Refused:
        raise
    except UnidentifiedImageError as error:
        raise Refused(f"is none of {', '.join(FORMATS)}") from error
    except Exception as error:
        raise Refused(f"{type(error).__name__}: {ADDRESS.sub('', str(error))}") from error


def check_pixels(width: int, height: int, most: int, what: str = "has") -> None:
    """Raises Refused for more than `most`."""
    if width * height > most:
        raise Refused(f"{what} {width}x{height} pixels, more than {most}")


@contextmanager
def pillow_allows(most: int) -> Iterator[None]:
    """Inside, Pillow's own bound for all of this process is `most` too, and it says nothing that decode() says."""
    before = Image.MAX_IMAGE_PIXELS
    Image.MAX_IMAGE_PIXELS = most
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            yield
    finally:
        Image.MAX_IMAGE_PIXELS = before
