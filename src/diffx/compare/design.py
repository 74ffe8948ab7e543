"""What a set of methods was designed to show: interactions of A, B and A+B, and responses to a swept setting.

With m(S) the distance of the runs that use the plugins S, at equal cost: gain(S) = m(plain) - m(S), and the surplus
over additive is gain(A+B) - gain(A) - gain(B). Where seeds are shared by all four the surplus is computed per seed.
Large gains cannot add up, since a distance does not fall below zero: so `factor` says the same for gains that multiply,
m(A) m(B) / (m(plain) m(A+B)), which exceeds 1 when the pair does better than that.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
from scipy.ndimage import label

from diffx.compare.study import Result, Study
from diffx.curves.curve import read_value
from diffx.curves.method import Method, find_varied
from diffx.curves.seeds import Spread, make_spread
from diffx.plain import group, is_number

FLAT = 0.05  # with one seed per value, values within this share of the best count as equal to it


@dataclass(frozen=True)
class Interaction:
    """Two methods alone and together in one metric. `paired`: computed seed by seed, else from means over seeds."""

    metric: str
    labels: tuple[str, str, str]  # A, B, A+B
    gains: tuple[Spread, ...]
    surplus: Spread
    factor: Spread
    paired: bool


def find_interactions(study: Study) -> list[Interaction]:
    """Every combination whose parts were run alone with the same settings, in every metric."""
    if study.baseline is None:
        return []
    splits = [(study.baseline, *three) for three in find_splits(study.methods)]
    found = [interact(study, result, four) for result in study.results for four in splits]
    return [one for one in found if one is not None]


def find_splits(methods: Sequence[Method]) -> Iterator[tuple[Method, Method, Method]]:
    """(A, B, A+B) for every way to split a method's plugins into two parts that were run alone."""
    for both in methods:
        names = sorted(both.plugins)
        for size in range(1, len(names) // 2 + 1):
            for part in combinations(names, size):
                rest = [name for name in names if name not in part]
                if size == len(rest) and names[0] not in part:
                    continue  # the same split the other way round
                first, second = find_alone(methods, both, part), find_alone(methods, both, rest)
                if first is not None and second is not None:
                    yield first, second, both


def find_alone(methods: Sequence[Method], both: Method, part: Sequence[str]) -> Method | None:
    """The method with just these plugins, set as they are in `both`; the one with most other settings in common."""
    fitting = [
        method
        for method in methods
        if set(method.plugins) == set(part) and pick_plugin_settings(method, part) == pick_plugin_settings(both, part)
    ]
    return min(fitting, key=lambda method: len(find_varied([method.settings, both.settings])), default=None)


def pick_plugin_settings(method: Method, names: Sequence[str]) -> dict[str, object]:
    starts = tuple(f"plugins.{name}." for name in names)
    return {name: value for name, value in method.settings.items() if name.startswith(starts)}


def interact(study: Study, result: Result, four: Sequence[Method]) -> Interaction | None:
    """The interaction from (plain, A, B, A+B); None when one of them has no value at equal cost."""
    by_seed = [read_by_seed(method, study, result) for method in four]
    if not all(by_seed):
        return None
    shared = sorted(set.intersection(*(set(one) for one in by_seed)))
    rows = [[one[seed] for one in by_seed] for seed in shared]
    rows = rows or [[sum(one.values()) / len(one) for one in by_seed]]
    gains = [make_spread([row[0] - row[place] for row in rows]) for place in (1, 2, 3)]
    surplus = make_spread([a + b - plain - both for plain, a, b, both in rows])
    factor = make_spread([a * b / (plain * both) for plain, a, b, both in rows if plain * both > 0])
    known = tuple(gain for gain in gains if gain is not None)
    if surplus is None or factor is None or len(known) < 3:
        return None
    labels = (four[1].label, four[2].label, four[3].label)
    return Interaction(result.metric, labels, known, surplus, factor, bool(shared))


def read_by_seed(method: Method, study: Study, result: Result) -> dict[int, float]:
    """Value at equal cost by seed, seeds that ended before left out."""
    curves = study.curves(method.label, result.metric).items()
    return {seed: one.value for seed, curve in curves if (one := read_value(curve, result.equal_cost)) is not None}


@dataclass(frozen=True)
class Response:
    """One metric against one swept setting (`names` has one entry) or two (a grid). Points in ascending order.

    `flat` holds the places of the points that are connected to the best one through points that are as good as it: not
    above the best value's worst seed, or within 5 % where it has a single seed.
    """

    metric: str
    plugins: str
    names: tuple[str, ...]
    points: tuple[tuple[float, ...], ...]
    labels: tuple[str, ...]
    values: tuple[Spread, ...]
    flat: tuple[int, ...]
    equal_cost: float

    @property
    def swept(self) -> list[str]:
        """The settings' names, the last part of each."""
        return [name.split(".")[-1] for name in self.names]

    @property
    def few(self) -> bool:
        """Whether there is one seed a value."""
        return max(value.count for value in self.values) < 2

    def describe_flat(self) -> str:
        """The flat region in words: weight 0.25 to 1."""
        sides = zip(*(self.points[place] for place in self.flat), strict=True)
        ends = [(name, min(side), max(side)) for name, side in zip(self.swept, sides, strict=True)]
        return ", ".join(f"{name} {low:g}" + (f" to {high:g}" if high > low else "") for name, low, high in ends)


def find_responses(study: Study) -> list[Response]:
    """All sweeps of one or two numbers among the methods, in every metric."""
    found = [
        respond(names, methods, result) for names, methods in find_sweeps(study.methods) for result in study.results
    ]
    return [one for one in found if one is not None]


def find_sweeps(methods: Sequence[Method]) -> list[tuple[tuple[str, ...], list[Method]]]:
    """Sets of methods with the same plugins in which one or two numeric settings vary, over three values or more."""
    found = []
    for swept in group((method, method.plugins) for method in methods).values():
        names = tuple(find_varied([method.settings for method in swept]))
        numeric = all(is_number(method.settings.get(name)) for method in swept for name in names)
        if len(swept) >= 3 and numeric and 1 <= len(names) <= 2:
            found.append((names, swept))
    return found


def respond(names: tuple[str, ...], methods: Sequence[Method], result: Result) -> Response | None:
    """The response of one metric; None with fewer than three values at equal cost."""
    measured = {
        tuple(float(method.settings[name]) for name in names): (method, equal)
        for method in methods
        if (equal := result.outcomes[method.label].equal) is not None
    }
    points = tuple(sorted(measured))
    if len(points) < 3:
        return None
    values = tuple(measured[point][1] for point in points)
    labels = tuple(measured[point][0].label for point in points)
    plugins = "+".join(methods[0].plugins) or "plain"
    flat = find_flat_region(points, values)
    return Response(result.metric, plugins, names, points, labels, values, flat, result.equal_cost)


def find_flat_region(points: Sequence[tuple[float, ...]], values: Sequence[Spread]) -> tuple[int, ...]:
    """Places connected to the best point through neighbours on the grid that are as good as it."""
    means = np.array([value.mean for value in values])
    best = int(means.argmin())
    good = means <= (values[best].high if values[best].count > 1 else means[best] * (1 + FLAT))
    cells = tuple(np.unique(column, return_inverse=True)[1] for column in np.array(points).T)
    grid = np.zeros([cell.max() + 1 for cell in cells], dtype=bool)
    grid[cells] = good
    regions = label(grid)[0][cells]
    return tuple(np.flatnonzero(regions == regions[best]).tolist())
