"""Response to a swept setting: the distance at equal cost against the value, and the region as good as the best."""

from collections.abc import Sequence
from dataclasses import dataclass

from diffx.compare.group import Method, differing, is_number
from diffx.compare.metric import title
from diffx.compare.number import compact
from diffx.compare.study import Result, Study
from diffx.compare.table import Table, ranged
from diffx.compare.target import Spread

FLAT = 0.05  # with one seed per value, values within this share of the best count as equal to it


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


def responses(study: Study) -> list[Response]:
    """All sweeps of one or two numbers among the methods, in every metric."""
    return [
        one
        for names, methods in sweeps(study.methods)
        for result in study.results
        if (one := response(names, methods, result)) is not None
    ]


def sweeps(methods: Sequence[Method]) -> list[tuple[tuple[str, ...], list[Method]]]:
    """Sets of methods with the same plugins in which one or two numeric settings vary, over three values or more."""
    pools: dict[tuple[str, ...], list[Method]] = {}
    for method in methods:
        pools.setdefault(method.plugins, []).append(method)
    found = []
    for pool in pools.values():
        names = tuple(differing([method.settings for method in pool]))
        numeric = all(is_number(method.settings.get(name)) for method in pool for name in names)
        if len(pool) >= 3 and numeric and 1 <= len(names) <= 2:
            found.append((names, pool))
    return found


def response(names: tuple[str, ...], methods: Sequence[Method], result: Result) -> Response | None:
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
    return Response(result.metric, plugins, names, points, labels, values, flat_region(points, values))


def flat_region(points: Sequence[tuple[float, ...]], values: Sequence[Spread]) -> tuple[int, ...]:
    """Places connected to the best point through neighbours on the grid that are as good as it."""
    best = min(range(len(values)), key=lambda place: values[place].mean)
    limit = values[best].high if values[best].count > 1 else values[best].mean * (1 + FLAT)
    good = {place for place, value in enumerate(values) if value.mean <= limit}
    region, front = {best}, [best]
    while front:
        here = front.pop()
        new = {place for place in good - region if neighbours(points, points[here], points[place])}
        region |= new
        front += new
    return tuple(sorted(region))


def neighbours(points: Sequence[tuple[float, ...]], one: tuple[float, ...], other: tuple[float, ...]) -> bool:
    """Whether two points are one step apart along one swept setting."""
    steps = 0
    for place, (here, there) in enumerate(zip(one, other, strict=True)):
        axis = sorted({point[place] for point in points})
        steps += abs(axis.index(here) - axis.index(there))
    return steps == 1


def described(response: Response) -> str:
    """The flat region in words: weight 0.25 to 1."""
    inside = [response.points[place] for place in response.flat]
    parts = []
    for place, name in enumerate(response.names):
        low, high = min(point[place] for point in inside), max(point[place] for point in inside)
        parts.append(f"{name.split('.')[-1]} {low:g}" + (f" to {high:g}" if high > low else ""))
    return ", ".join(parts)


def response_table(one: Response, study: Study) -> Table:
    """A sweep as a table: the setting, the distance at equal cost, and whether it is in the flat region."""
    cost = next(result.equal_cost for result in study.results if result.metric == one.metric)
    rows = tuple(
        (*(f"{value:g}" for value in point), ranged(value), "flat" if place in one.flat else "")
        for place, (point, value) in enumerate(zip(one.points, one.values, strict=True))
    )
    header = (*one.names, f"at {compact(cost)} {study.unit_name}", "")
    return Table(f"Sweep of {one.plugins}: {title(one.metric)}", header, rows, f"flat region: {described(one)}")
