"""Draws shapes from rows of random numbers: signed distances for the outlines, periodic functions for the textures.

Lengths are in units of half the image, so that one row draws the same picture at any resolution. An image is
`ground + coverage · (figure − ground)`: the class decides only the coverage, and everything else only the rest.
"""

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.floating[Any]]  # float32 in fact

UNIFORMS = 40
"""Random numbers per image, some to spare. A multiple of four, as many as Philox makes at a time."""

TAU = np.float32(2 * np.pi)


def draw(labels: NDArray[np.int64], uniforms: Array, size: int) -> NDArray[np.uint8]:
    """Images of the classes `labels` (N,) with the looks `uniforms` (N, 40) in [0, 1); uint8 (N, 3, size, size)."""
    column = (values.reshape(-1, 1, 1) for values in uniforms.T)
    pixel = ((2 * np.arange(size) + 1) / size - 1).astype(np.float32)
    x, y = np.broadcast_arrays(pixel[None, None, :], pixel[None, :, None])
    coverage = _coverage(labels, x, y, column, 2 / size)
    bright_figure = next(column) < 0.5
    figure = _layer(x, y, column, bright_figure)
    ground = _layer(x, y, column, ~bright_figure)
    image = ground + coverage[:, None] * (figure - ground)
    return (image * 255 + 0.5).clip(0, 255).astype(np.uint8)


def _coverage(labels: NDArray[np.int64], x: Array, y: Array, column: Iterator[Array], pixel: float) -> Array:
    """Share of each pixel that the shape covers, (N, H, W), with an edge one to two and a half pixels wide."""
    scale = between(0.5, 0.85, next(column))
    room = 0.97 - scale
    x, y = x - room * between(-1, 1, next(column)), y - room * between(-1, 1, next(column))
    u, v = rotate(x / scale, y / scale, TAU * next(column))
    distance = np.empty_like(u)
    for label, outline in enumerate(OUTLINES.values()):
        chosen = labels == label
        distance[chosen] = outline(u[chosen], v[chosen])
    return (0.5 - distance * scale / (pixel * between(1, 2.5, next(column)))).clip(0, 1)


def _layer(x: Array, y: Array, column: Iterator[Array], bright: NDArray[np.bool_]) -> Array:
    """A textured surface of two colours that are both bright or both dark, (N, 3, H, W)."""
    kind = (next(column).ravel() * len(TEXTURES)).astype(np.int64)
    angle, frequency = TAU * next(column), between(8, 18, next(column))
    u, v = rotate(x, y, angle)
    u, v = u * frequency + TAU * next(column), v * frequency + TAU * next(column)
    mix = np.empty_like(u)
    for index, texture in enumerate(TEXTURES.values()):
        chosen = kind == index
        mix[chosen] = texture(u[chosen], v[chosen])
    hue, saturation = next(column), between(0.25, 0.95, next(column))
    lightness = np.where(bright, between(0.66, 0.84, next(column)), between(0.14, 0.30, next(column)))
    step = between(0.06, 0.12, next(column))
    one = rgb(hue, saturation, lightness - step)
    other = rgb(hue + between(-0.2, 0.2, next(column)), saturation, lightness + step)
    return one + mix.clip(0, 1)[:, None] * (other - one)


def between(low: float, high: float, uniform: Array) -> Array:
    """Uniform numbers of [0, 1) in [low, high)."""
    return low + np.float32(high - low) * uniform


def rotate(x: Array, y: Array, angle: Array) -> tuple[Array, Array]:
    """Coordinates in axes that are turned by `angle`."""
    cos, sin = np.cos(angle), np.sin(angle)
    return cos * x + sin * y, cos * y - sin * x


def rgb(hue: Array, saturation: Array, lightness: Array) -> Array:
    """HSL to RGB: each (N, 1, 1), hue in turns; returns (N, 3, 1, 1)."""
    chroma = saturation * np.minimum(lightness, 1 - lightness)
    place = (np.array([0, 8, 4], dtype=np.float32).reshape(1, 3, 1, 1) + 12 * hue[:, None]) % 12
    return lightness[:, None] - chroma[:, None] * np.minimum(np.minimum(place - 3, 9 - place), 1).clip(-1)


def _box(x: Array, y: Array, width: float, height: float) -> Array:
    return np.maximum(np.abs(x) - width, np.abs(y) - height)


def _triangle(x: Array, y: Array) -> Array:
    return np.maximum(np.abs(x) * np.float32(np.sqrt(0.75)) - y / 2, y) - 0.5


def _star(x: Array, y: Array) -> Array:
    fifth, inner = np.float32(2 * np.pi / 5), 0.42
    angle, radius = np.abs((np.arctan2(y, x) + fifth / 2) % fifth - fifth / 2), np.hypot(x, y)
    # The edge runs from the tip (1, 0) to the inner corner at half the angle between two tips.
    dx, dy = inner * np.cos(fifth / 2) - 1, inner * np.sin(fifth / 2)
    return ((radius * np.cos(angle) - 1) * dy - radius * np.sin(angle) * dx) / np.hypot(dx, dy)


OUTLINES: dict[str, Callable[[Array, Array], Array]] = {
    "disc": lambda x, y: np.hypot(x, y) - 0.85,
    "ring": lambda x, y: np.abs(np.hypot(x, y) - 0.75) - 0.2,
    "square": lambda x, y: _box(x, y, 0.7, 0.7),
    "triangle": _triangle,
    "star": _star,
    "cross": lambda x, y: np.minimum(_box(x, y, 0.95, 0.27), _box(x, y, 0.27, 0.95)),
    "crescent": lambda x, y: np.maximum(np.hypot(x, y) - 0.95, 0.75 - np.hypot(x - 0.5, y)),
    "bar": lambda x, y: _box(x, y, 0.98, 0.26),
    "bow-tie": lambda x, y: np.maximum(np.abs(x) - 0.78, (np.abs(y) - 0.8 * np.abs(x)) / np.float32(np.hypot(1, 0.8))),
    "corner": lambda x, y: np.minimum(_box(x + 0.47, y, 0.23, 0.7), _box(x, y + 0.47, 0.7, 0.23)),
}
"""Signed distance to the outline of each class, negative inside, in units of the shape's radius."""

TEXTURES: dict[str, Callable[[Array, Array], Array]] = {
    "plain": lambda u, v: np.zeros_like(u),
    "stripes": lambda u, v: 0.5 + 1.5 * np.sin(u),
    "checks": lambda u, v: 0.5 + 2 * np.sin(u / 2) * np.sin(v / 2),
    "dots": lambda u, v: np.cos(u) + np.cos(v),
    "waves": lambda u, v: 0.5 + 1.5 * np.sin(u + 1.5 * np.sin(v / 2)),
    "gradient": lambda u, v: 0.5 + 0.5 * np.sin(u / 6),
}
"""How much of the second colour is mixed in, clipped to [0, 1] later, at phases (u, v)."""
