"""What a preparation takes: the numbers on its command line, the labels, and how large a sample may be."""

import re
from dataclasses import dataclass
from typing import Any

from diffx.errors import DiffxError
from diffx.pixels.decode import MOST_BYTES, MOST_PIXELS, Refused

MOST_CLASSES = 1_000_000
LARGEST = 1 << 31  # of any count on a command line
MADE = re.compile(r"latents|latents-flipped|text|features-.*")


@dataclass(frozen=True)
class Limits:
    """A sample beyond one of them is left out and named.

    bytes: of an encoded image. pixels: of an image, decoded or enlarged. classes: labels are 0 to classes - 1.
    """

    bytes: int = MOST_BYTES
    pixels: int = MOST_PIXELS
    classes: int = MOST_CLASSES

    def __post_init__(self) -> None:
        check_count("--max-bytes", self.bytes, MOST_BYTES)
        check_count("--max-pixels", self.pixels, MOST_PIXELS)
        check_count("--max-classes", self.classes, MOST_CLASSES)

    def check_resolution(self, resolution: int) -> None:
        """Raises DiffxError for one that no backbone takes, or whose images are beyond the limit themselves."""
        check_count("--resolution", resolution, 256)
        if resolution % 8:
            raise DiffxError(
                f"--resolution {resolution} is no multiple of 8, so that no autoencoder and no backbone of diffx takes "
                f"it; type --resolution {max(8, round(resolution / 32) * 32)}."
            )
        if resolution**2 > self.pixels:
            raise DiffxError(
                f"--resolution {resolution} makes images of {resolution**2} pixels, more than {self.pixels}; type "
                f"--resolution 256, or --max-pixels {resolution**2} if it is meant."
            )


def check_count(option: str, value: int, example: int) -> None:
    """Raises DiffxError for what is no number of things."""
    if not 1 <= value <= LARGEST:
        raise DiffxError(f"{option} {value} is not a number from 1 to {LARGEST}; type {option} {example}.")


def check_into(name: str) -> None:
    """Raises DiffxError for a folder that is not in the root, or that another preparation fills."""
    if not re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9._-]*", name):
        raise DiffxError(f"--into {name!r} is not the name of a folder in ROOT; type --into reference.")
    if MADE.fullmatch(name):
        raise DiffxError(f"--into {name} is where latents or features go; type --into reference.")


def class_number(label: Any, classes: int) -> int:
    """A label that is a number. Raises Refused for one that numbers no class."""
    if label is None:
        raise Refused("has no class number")
    if isinstance(label, bool) or not isinstance(label, int):
        raise Refused(f"label {str(label)[:40]!r} is no class number")
    if not 0 <= label < classes:
        shown = label if abs(label) < 1 << 64 else f"of {label.bit_length()} bits"
        raise Refused(f"label {shown} is no class number from 0 to {classes - 1}")
    return label


def name_fault(label: Any, limits: Limits) -> str:
    """Why a label numbers no class, or nothing."""
    try:
        class_number(label, limits.classes)
    except Refused as reason:
        return str(reason)
    return ""
