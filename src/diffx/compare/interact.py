"""Interactions: what methods A and B gain alone, together, and over what their separate gains would add up to.

With m(S) the distance of the runs that use the plugins S, at equal cost: gain(S) = m(plain) - m(S), and the surplus
over additive is gain(A+B) - gain(A) - gain(B). Where seeds are shared by all four the surplus is computed per seed.
Large gains cannot add up, since a distance does not fall below zero: so `factor` says the same for gains that multiply,
m(A) m(B) / (m(plain) m(A+B)), above 1 when the pair does better than that.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations

from diffx.compare.group import Method, differing
from diffx.compare.metric import title
from diffx.compare.number import compact
from diffx.compare.study import Result, Study
from diffx.compare.table import Table, ranged
from diffx.compare.target import Spread, spread, value_near


@dataclass(frozen=True)
class Interaction:
    """Two methods alone and together in one metric. `paired`: computed seed by seed, else from means over seeds."""

    metric: str
    labels: tuple[str, str, str]  # A, B, A+B
    gains: tuple[Spread, Spread, Spread]
    surplus: Spread
    factor: Spread
    paired: bool


def interactions(study: Study) -> list[Interaction]:
    """Every combination whose parts were run alone with the same settings, in every metric."""
    if study.baseline is None:
        return []
    found = []
    for result in study.results:
        for first, second, both in designs(study.methods):
            one = interaction(study, result, (study.baseline, first, second, both))
            found += [one] if one is not None else []
    return found


def designs(methods: Sequence[Method]) -> Iterator[tuple[Method, Method, Method]]:
    """(A, B, A+B) for every way to split a method's plugins into two parts that were run alone."""
    for both in methods:
        names = sorted(both.plugins)
        for size in range(1, len(names) // 2 + 1):
            for part in combinations(names, size):
                rest = [name for name in names if name not in part]
                if size == len(rest) and names[0] not in part:
                    continue  # the same split the other way round
                first, second = alone(methods, both, part), alone(methods, both, rest)
                if first is not None and second is not None:
                    yield first, second, both


def alone(methods: Sequence[Method], both: Method, part: Sequence[str]) -> Method | None:
    """The method with just these plugins, set as they are in `both`; the one with most other settings in common."""
    fitting = [
        method
        for method in methods
        if set(method.plugins) == set(part) and plugin_settings(method, part) == plugin_settings(both, part)
    ]
    return min(fitting, key=lambda method: len(differing([method.settings, both.settings])), default=None)


def plugin_settings(method: Method, names: Sequence[str]) -> dict[str, object]:
    starts = tuple(f"plugins.{name}." for name in names)
    return {name: value for name, value in method.settings.items() if name.startswith(starts)}


def interaction(study: Study, result: Result, four: tuple[Method, Method, Method, Method]) -> Interaction | None:
    """The interaction from (plain, A, B, A+B); None when one of them has no value at equal cost."""
    by_seed = [at_equal_cost(method, study, result) for method in four]
    if not all(by_seed):
        return None
    shared = sorted(set.intersection(*(set(one) for one in by_seed)))
    rows = [[one[seed] for one in by_seed] for seed in shared]
    rows = rows or [[sum(one.values()) / len(one) for one in by_seed]]
    gains = [spread([row[0] - row[place] for row in rows]) for place in (1, 2, 3)]
    surplus = spread([a + b - plain - both for plain, a, b, both in rows])
    factor = spread([a * b / (plain * both) for plain, a, b, both in rows if plain * both > 0])
    if surplus is None or factor is None or None in gains:
        return None
    labels = (four[1].label, four[2].label, four[3].label)
    return Interaction(result.metric, labels, tuple(gains), surplus, factor, bool(shared))  # type: ignore[arg-type]


def at_equal_cost(method: Method, study: Study, result: Result) -> dict[int, float]:
    """Value at equal cost by seed, seeds that ended before left out."""
    values = {run.seed: value_near(run.series(result.metric, study.axis), result.equal_cost) for run in method.runs}
    return {seed: value for seed, value in values.items() if not math.isnan(value)}


def interaction_tables(found: Sequence[Interaction], study: Study) -> list[Table]:
    """One table per metric: the gain of each part, of both, the surplus, and the factor over multiplying."""
    tables = []
    for result in study.results:
        rows = [
            (
                f"{one.labels[0]} + {one.labels[1]}",
                *(ranged(gain).replace(" [", "\n[") for gain in (*one.gains, one.surplus, one.factor)),
                str(one.surplus.count) if one.paired else "unpaired",
            )
            for one in found
            if one.metric == result.metric
        ]
        header = ("A + B", "gain of A", "gain of B", "gain of both", "surplus", "factor", "seeds")
        note = (
            f"gain: baseline's value minus the method's after {compact(result.equal_cost)} {study.unit_name}; surplus: "
            "gain of both minus the sum, above 0 means more than additive; factor: the same for gains that multiply, "
            "above 1 means more; mean [least – greatest seed]"
        )
        if rows:
            tables.append(Table(f"Interactions: {title(result.metric)}", header, tuple(rows), note))
    return tables
