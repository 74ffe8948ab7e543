"""Pictures of scenes: places, colours and outlines, from the scene and rows of random numbers.

Lengths are in units of half the image, as in diffx.data.drawing, whose outlines these are.
"""

import numpy as np
from numpy.typing import NDArray

from diffx.data.captions.scene import COLOUR, COLOURS, MOST, SHAPE, SHAPES, SIZE, Scenes
from diffx.data.drawing import OUTLINES, Array, between, rgb, rotate

DRAWS = 40
"""Random numbers that a picture takes, some to spare."""
EDGE, GAP = 0.97, 0.06  # how far a shape reaches towards the border, and what is left free between two
RADII = ((0.26, 0.30), (0.42, 0.48))  # of small and of large shapes
HUES = dict(zip(COLOURS, (0.0, 0.36, 0.62, 0.155, 0.79, 0.075), strict=True))
OUTLINE_OF = {"circle": "disc"}


def places_of(scenes: Scenes, uniforms: NDArray[np.float32]) -> NDArray[np.float32]:
    """(N, 3, 3): x, y and radius of each shape as draw_pictures has them, in [-1, 1]; radius 0 behind the last."""
    return _places(scenes, uniforms[:, 8 : 8 + 1 + 3 * MOST])


def draw_pictures(scenes: Scenes, uniforms: NDArray[np.float32], size: int) -> NDArray[np.uint8]:
    """uint8 (N, 3, size, size) from scenes and random numbers (N, DRAWS) in [0, 1)."""
    column = (values.reshape(-1, 1, 1) for values in uniforms.T)
    pixel = ((2 * np.arange(size) + 1) / size - 1).astype(np.float32)
    x, y = np.broadcast_arrays(pixel[None, None, :], pixel[None, :, None])
    bright = next(column) < 0.5
    grey = np.where(bright, between(0.82, 0.94, next(column)), between(0.06, 0.18, next(column)))
    tint = rgb(next(column), between(0.0, 0.12, next(column)), grey)
    slope = (0.05 * (2 * next(column) - 1) * x + 0.05 * (2 * next(column) - 1) * y)[:, None]
    image = (tint + slope).clip(0, 1)
    places = places_of(scenes, uniforms)
    rest = uniforms[:, 20:]
    for k in range(MOST):
        there = np.flatnonzero(scenes.number > k)
        if there.size:
            looks = rest[there, 4 * k : 4 * (k + 1)]
            figure, coverage = _shape(scenes.objects[there, k], places[there, k], looks, x, y, 2 / size)
            image[there] += coverage[:, None] * (figure - image[there])
    pixels: NDArray[np.uint8] = (image * 255 + 0.5).clip(0, 255).astype(np.uint8)
    return pixels


def _places(scenes: Scenes, uniforms: NDArray[np.float32]) -> NDArray[np.float32]:
    """(N, 3, 3): x, y and radius of each shape, none over another."""
    along, across, sizes = uniforms[:, :MOST], uniforms[:, MOST : 2 * MOST], uniforms[:, 2 * MOST : 3 * MOST]
    base = uniforms[:, 3 * MOST]
    there = np.arange(MOST) < scenes.number[:, None]
    low, high = np.array(RADII, np.float32)[scenes.objects[:, :, SIZE].clip(0)].transpose(2, 0, 1)
    radius = np.where(there, low + (high - low) * sizes, 0)
    free = 2 * EDGE - 2 * radius.sum(1) - GAP * (scenes.number - 1)
    shares = np.sort(np.where(there, along, 2), axis=1)  # of the free room, what lies before each
    before = np.cumsum(2 * radius, axis=1) - radius + GAP * np.arange(MOST)
    main = -EDGE + before + free[:, None] * shares
    room = EDGE - radius.max(1) - 0.1
    other = (room * (2 * base - 1))[:, None] + 0.1 * (2 * across - 1)
    row = scenes.row[:, None] == 1
    placed: NDArray[np.float32] = np.stack([np.where(row, main, other), np.where(row, other, main), radius], axis=2)
    return placed.astype(np.float32)


def _shape(
    objects: NDArray[np.int64],
    places: NDArray[np.float32],
    looks: NDArray[np.float32],
    x: Array,
    y: Array,
    pixel: float,
) -> tuple[Array, Array]:
    """Colour (n, 3, 1, 1) and coverage (n, H, W) of a shape in each of n scenes."""
    turn, shade, strength, tone = (values.reshape(-1, 1, 1) for values in looks.T)
    left, top, radius = (values.reshape(-1, 1, 1) for values in places.T)
    u, v = rotate((x - left) / radius, (y - top) / radius, np.float32(0.15) * (2 * turn - 1))
    distance = np.empty_like(u)
    for place, name in enumerate(SHAPES):
        chosen = objects[:, SHAPE] == place
        distance[chosen] = OUTLINES[OUTLINE_OF.get(name, name)](u[chosen], v[chosen])
    hue = np.array([HUES[name] for name in COLOURS], np.float32)[objects[:, COLOUR]].reshape(-1, 1, 1)
    colour = rgb((hue + 0.012 * (2 * shade - 1)) % 1, between(0.85, 1, strength), between(0.44, 0.56, tone))
    return colour, (0.5 - distance * radius / (1.2 * pixel)).clip(0, 1)
