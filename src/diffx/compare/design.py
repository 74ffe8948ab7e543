"""What a set of methods was designed to show: interactions of A, B and A+B, and responses to a swept setting.

With m(S) the distance of the runs that use the plugins S, at equal cost: gain(S) = m(plain) - m(S), and the surplus
over additive is gain(A+B) - gain(A) - gain(B). Where seeds are shared by all four the surplus is computed per seed.
Large gains cannot add up, since a distance does not fall below zero: so `factor` says the same for gains that multiply,
m(A) m(B) / (m(plain) m(A+B)), which exceeds 1 when the pair does better than that.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations

from diffx.compare.seeds import Spread, make_spread
from diffx.compare.study import Result, Study
from diffx.curves.curve import read_value
from diffx.curves.method import Method, find_varied
from diffx.plain import is_number

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
    curves = study.points.curves(method.label, result.metric, study.axis)
    read = {seed: read_value(curve, result.equal_cost) for seed, curve in curves.items()}
    return {seed: one.value for seed, one in read.items() if one is not None}


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

    def describe_flat(self) -> str:
        """The flat region in words: weight 0.25 to 1."""
        inside = [self.points[place] for place in self.flat]
        parts = []
        for place, name in enumerate(self.names):
            low, high = min(point[place] for point in inside), max(point[place] for point in inside)
            parts.append(f"{name.split('.')[-1]} {low:g}" + (f" to {high:g}" if high > low else ""))
        return ", ".join(parts)


def find_responses(study: Study) -> list[Response]:
    """All sweeps of one or two numbers among the methods, in every metric."""
    found = [
        respond(names, methods, result) for names, methods in find_sweeps(study.methods) for result in study.results
    ]
    return [one for one in found if one is not None]


def find_sweeps(methods: Sequence[Method]) -> list[tuple[tuple[str, ...], list[Method]]]:
    """Sets of methods with the same plugins in which one or two numeric settings vary, over three values or more."""
    pools: dict[tuple[str, ...], list[Method]] = {}
    for method in methods:
        pools.setdefault(method.plugins, []).append(method)
    found = []
    for swept in pools.values():
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
    best = min(range(len(values)), key=lambda place: values[place].mean)
    limit = values[best].high if values[best].count > 1 else values[best].mean * (1 + FLAT)
    good = {place for place, value in enumerate(values) if value.mean <= limit}
    region, front = {best}, [best]
    while front:
        here = front.pop()
        new = {place for place in good - region if are_neighbours(points, points[here], points[place])}
        region |= new
        front += new
    return tuple(sorted(region))


def are_neighbours(points: Sequence[tuple[float, ...]], one: tuple[float, ...], other: tuple[float, ...]) -> bool:
    """Whether two points are one step apart along one swept setting."""
    steps = 0
    for place, (here, there) in enumerate(zip(one, other, strict=True)):
        values = sorted({point[place] for point in points})
        steps += abs(values.index(here) - values.index(there))
    return steps == 1
