"""Which metrics are distances, by their names: lower is better, and searches and comparisons go by them."""

import re
from collections.abc import Iterable

DISTANCE = re.compile(r"^(s?fid|fd|kid|kd|kdd|c?mmd)(_|$)")


def pick_distances(names: Iterable[str]) -> list[str]:
    """The metrics that measure a distance to real images in some feature space: lower is better. Keeps the order."""
    return [name for name in names if DISTANCE.match(name)]


def searched_metric(asked: str | None, names: Iterable[str]) -> str | None:
    """What a search goes by: the metric that is asked for, else the first distance; None where there is no distance."""
    return asked or next(iter(pick_distances(names)), None)
