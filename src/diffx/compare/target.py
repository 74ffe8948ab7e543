"""Time-to-target and values at equal cost, from curves of a distance (lower is better) against cost.

Between two evaluations the logarithm of the distance is taken to be linear in cost. On a power law, which late training
follows, that reads costs up to 6 % too high where evaluations are a doubling apart, for every method alike; early
training falls faster than a power law, and there the opposite choice (linear in the logarithm of cost) misses by more.

What was not observed is censored, never dropped: a target that a run did not reach costs more than the run's last
evaluation, one that its first evaluation already meets costs at most that. Everything over seeds uses medians for costs
and means for distances.
"""

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

Bound = Literal["=", ">", "<"]
Curve = tuple[Sequence[float], Sequence[float]]  # positions on the cost axis, ascending, and values
RESAMPLES = 10_000
# How often the 95 % interval holds the true ratio when seeds are few: measured on log-normal costs, 1,500 draws each.
COVERAGE = {2: 0.66, 3: 0.91, 4: 0.93}
NEAR = 0.02  # relative: costs that count as equal
SPLITS = 20_000  # permutations are counted up to here and sampled beyond


@dataclass(frozen=True)
class Reach:
    """Cost of a target: exactly `cost`, more (">", not reached) or at most it ("<", met at the first evaluation)."""

    cost: float
    bound: Bound = "="

    @property
    def least(self) -> float:
        """The smallest cost that it can be: nothing when the target was met at the first evaluation."""
        return 0.0 if self.bound == "<" else self.cost

    @property
    def most(self) -> float:
        """The largest cost that it can be: infinite when the target was not reached."""
        return math.inf if self.bound == ">" else self.cost


@dataclass(frozen=True)
class Speedup:
    """Cost of the baseline over cost of the method, and its 95 % bootstrap interval over seeds (None with one seed)."""

    ratio: float
    bound: Bound
    interval: tuple[float, float] | None


@dataclass(frozen=True)
class Spread:
    """Values over seeds: mean, least and greatest, and how many."""

    mean: float
    low: float
    high: float
    values: tuple[float, ...]

    @property
    def count(self) -> int:
        return len(self.values)


def spread(values: Sequence[float]) -> Spread | None:
    """None when nothing was observed."""
    seen = tuple(value for value in values if math.isfinite(value))
    return Spread(float(np.mean(seen)), min(seen), max(seen), seen) if seen else None


def value_at(curve: Curve, cost: float) -> float:
    """The value at a cost, interpolated on the logarithm of the value; NaN outside the curve."""
    x, y = curve
    if not x or not x[0] <= cost <= x[-1]:
        return math.nan
    right = max(1, int(np.searchsorted(x, cost)))
    if len(x) == 1:
        return y[0]
    share = (cost - x[right - 1]) / (x[right] - x[right - 1])
    before, after = y[right - 1], y[right]
    if min(before, after) <= 0:  # an unbiased distance can dip below zero, where there is no logarithm
        return before + share * (after - before)
    return before * (after / before) ** share


def value_near(curve: Curve, cost: float) -> float:
    """The same, where a curve that begins up to 2 % later counts with its first value.

    Runs of one budget end up to a step apart, and an evaluation after training is a curve of one point.
    """
    start = curve[0][0] if curve[0] else math.inf
    return value_at(curve, start if cost < start <= cost * (1 + NEAR) else cost)


def reach(curve: Curve, target: float) -> Reach:
    """The cost at which a curve first meets a target."""
    x, y = curve
    if not x:
        return Reach(0.0, ">")
    if y[0] <= target:
        return Reach(x[0], "<")
    for left in range(len(x) - 1):
        before, after = y[left], y[left + 1]
        if after <= target:
            logs = min(after, target) > 0
            share = (
                math.log(before / target) / math.log(before / after) if logs else (before - target) / (before - after)
            )
            return Reach(x[left] + share * (x[left + 1] - x[left]))
    return Reach(x[-1], ">")


def median(reaches: Sequence[Reach]) -> Reach:
    """The median over seeds: a lower bound (">") as soon as a seed that did not reach the target takes part in it."""
    ordered = sorted(reaches, key=lambda one: (one.most, one.cost))
    middle = ordered[(len(ordered) - 1) // 2 : len(ordered) // 2 + 1]
    if any(one.bound == ">" for one in middle):
        return Reach(float(np.median([one.cost for one in reaches])), ">")
    bound: Bound = "<" if any(one.bound == "<" for one in middle) else "="
    return Reach(float(np.mean([one.cost for one in middle])), bound)


def speedup(baseline: Sequence[Reach], method: Sequence[Reach]) -> Speedup | None:
    """Baseline's median cost over the method's. None when both are bounds that leave the ratio open."""
    above, below = median(baseline), median(method)
    bounds = {above.bound, {">": "<", "<": ">", "=": "="}[below.bound]} - {"="}
    if len(bounds) > 1 or below.cost <= 0:
        return None
    bound: Bound = ">" if ">" in bounds else "<" if "<" in bounds else "="
    return Speedup(above.cost / below.cost, bound, bootstrap(baseline, method))


def bootstrap(baseline: Sequence[Reach], method: Sequence[Reach], level: float = 0.95) -> tuple[float, float] | None:
    """Percentile interval of the ratio of medians, resampling the seeds of both sides independently.

    A censored seed enters with the least it can have cost at the lower end and with the most at the upper end. Seeds
    that share their data order are not resampled in pairs: three pairs are too few (see COVERAGE), and independent
    resampling errs on the wide side. None with one seed on either side, and when the interval excludes nothing.
    """
    if min(len(baseline), len(method)) < 2:
        return None
    rng = np.random.default_rng(0)
    above, below = (rng.integers(len(side), size=(RESAMPLES, len(side))) for side in (baseline, method))
    with np.errstate(divide="ignore"):
        least = medians([one.least for one in baseline], above) / medians([one.most for one in method], below)
        most = medians([one.most for one in baseline], above) / medians([one.least for one in method], below)
    tail = (1 - level) / 2
    low, high = np.quantile(least, tail, method="lower"), np.quantile(most, 1 - tail, method="higher")
    return None if low == 0 and math.isinf(high) else (float(low), float(high))


def medians(costs: Sequence[float], picks: np.ndarray) -> np.ndarray:
    """The median of each resample, without the NaN that NumPy makes of the mean of two infinities."""
    ordered = np.sort(np.array(costs)[picks], axis=1)
    count = ordered.shape[1]
    return (ordered[:, (count - 1) // 2] + ordered[:, count // 2]) / 2


def chance(one: Sequence[float], other: Sequence[float]) -> float:
    """Exact two-sided permutation test: how often a random split of the pooled seeds differs by as much or more.

    The statistic is the difference of mean logarithms. Returns 1 when a side is empty. With n and m seeds it cannot be
    below 2 / C(n + m, n): three seeds a side can say 0.1 at best.
    """
    if not one or not other:
        return 1.0
    pooled = np.log(np.maximum(np.array([*one, *other], dtype=float), 1e-12))
    size = len(one)
    if math.comb(len(pooled), size) <= SPLITS:
        picks = np.array(list(itertools.combinations(range(len(pooled)), size)))
    else:
        picks = np.random.default_rng(0).permuted(np.tile(np.arange(len(pooled)), (SPLITS, 1)), axis=1)[:, :size]
    sums = pooled[picks].sum(axis=1)
    gaps = np.abs(sums / size - (pooled.sum() - sums) / (len(pooled) - size))
    seen = abs(pooled[:size].mean() - pooled[size:].mean())
    return float(np.mean(gaps >= seen - 1e-12))


def least_chance(one: int, other: int) -> float:
    """The smallest value that `chance` can take with so many seeds on each side."""
    return min(1.0, 2 / math.comb(one + other, one))


def ladder(final: float, start: float, best: float, rungs: int = 4) -> list[float]:
    """Targets: the baseline's final value, and up to `rungs` round numbers between the best value and the first one."""
    if not 0 < best < start:
        return [final]
    decades = range(math.floor(math.log10(best)), math.ceil(math.log10(start)) + 1)
    round_numbers = [float(f"{digit}e{decade}") for decade in decades for digit in (1, 1.5, 2, 3, 5, 7)]
    inside = [value for value in round_numbers if best <= value < start and abs(math.log(value / final)) > 0.05]
    if len(inside) > rungs:
        places = np.linspace(0, len(inside) - 1, rungs).round().astype(int)
        inside = [inside[place] for place in places]
    return sorted([final, *inside], reverse=True)
