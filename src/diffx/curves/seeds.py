"""What several seeds say together: spreads, medians of costs, speed-ups with intervals, and permutation chances.

What was not observed is censored, never dropped: a target that a run did not reach costs more than the run's last
evaluation, one that its first evaluation already meets costs at most that. Everything over seeds uses medians for costs
and means for distances.
"""

import itertools
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.special import stdtrit

from diffx.curves.curve import Bound, Reach

ENOUGH = 0.1  # a permutation chance up to here counts as beyond the spread; three seeds a side can reach it
SPLITS = 20_000  # permutations are counted up to here and sampled beyond


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


@dataclass(frozen=True)
class Speedup:
    """Cost of the baseline over cost of the method, and its 95 % interval over seeds (None with one seed)."""

    ratio: float
    bound: Bound
    interval: tuple[float, float] | None


def make_spread(values: Sequence[float]) -> Spread | None:
    """None when nothing was observed."""
    seen = tuple(value for value in values if math.isfinite(value))
    return Spread(float(np.mean(seen)), min(seen), max(seen), seen) if seen else None


def take_median(reaches: Sequence[Reach]) -> Reach:
    """The median over seeds: a lower bound (">") as soon as a seed that did not reach the target takes part in it."""
    ordered = sorted(reaches, key=lambda one: (one.most, one.cost))
    middle = ordered[(len(ordered) - 1) // 2 : len(ordered) // 2 + 1]
    if any(one.bound == ">" for one in middle):
        return Reach(float(np.median([one.cost for one in reaches])), ">")
    bound: Bound = "<" if any(one.bound == "<" for one in middle) else "="
    return Reach(float(np.mean([one.cost for one in middle])), bound)


def compare_costs(baseline: Sequence[Reach], method: Sequence[Reach]) -> Speedup | None:
    """Baseline's median cost over the method's. None when both are bounds that leave the ratio open."""
    above, below = take_median(baseline), take_median(method)
    bounds = {above.bound, {">": "<", "<": ">", "=": "="}[below.bound]} - {"="}
    if len(bounds) > 1 or below.cost <= 0 or above.cost <= 0:
        return None
    bound: Bound = ">" if ">" in bounds else "<" if "<" in bounds else "="
    ratio = above.cost / below.cost
    return Speedup(ratio, bound, find_interval(baseline, method, ratio))


def find_interval(
    baseline: Sequence[Reach], method: Sequence[Reach], ratio: float, level: float = 0.95
) -> tuple[float, float] | None:
    """Welch's t interval of the logarithm of the ratio over seeds, wider by what the interpolations may be off by.

    A censored seed enters with the least it can have cost at one end and with the most at the other. None with one seed
    on either side, and when the interval excludes nothing.
    """
    if min(len(baseline), len(method)) < 2:
        return None
    slack = sum(share_error(one.errors for one in side) for side in (baseline, method))
    above, below = [one.least for one in baseline], [one.most for one in method]
    low = 0.0 if min(above) <= 0 or math.isinf(max(below)) else math.exp(find_t_ends(above, below, level)[0] - slack)
    above, below = [one.most for one in baseline], [one.least for one in method]
    high = (
        math.inf if min(below) <= 0 or math.isinf(max(above)) else math.exp(find_t_ends(above, below, level)[1] + slack)
    )
    return None if low == 0 and math.isinf(high) else (min(low, ratio), max(high, ratio))


def find_t_ends(above: Sequence[float], below: Sequence[float], level: float) -> tuple[float, float]:
    """Both ends of Welch's interval for the difference of mean logarithms."""
    sides = [np.log(above), np.log(below)]
    parts = [max(float(np.var(side, ddof=1)), 1e-18) / len(side) for side in sides]
    freedom = sum(parts) ** 2 / sum(part**2 / (len(side) - 1) for part, side in zip(parts, sides, strict=True))
    half = float(stdtrit(freedom, (1 + level) / 2)) * math.sqrt(sum(parts))
    middle = float(sides[0].mean() - sides[1].mean())
    return middle - half, middle + half


def share_error(errors: Iterable[tuple[float, ...]]) -> float:
    """What the interpolation may shift all seeds of a method by: on one grid of evaluations it does not average out."""
    known = [one for one in errors if one]
    return max((abs(sum(column) / len(column)) for column in zip(*known, strict=False)), default=0.0)


def permute(one: Sequence[float], other: Sequence[float], slack: float = 0.0) -> float:
    """Exact two-sided permutation test: how often a random split of the pooled seeds differs by as much or more.

    The statistic is the difference of mean logarithms, of which `slack` is not counted: what interpolation alone can
    have made. Returns 1 when a side is empty. With n and m seeds it cannot be below 2 / C(n + m, n): three seeds a side
    can say 0.1 at best.
    """
    if not one or not other:
        return 1.0
    pooled = np.array([*one, *other], dtype=float)
    pooled = np.log(pooled) if pooled.min() > 0 else pooled
    size = len(one)
    sums = sum_splits(pooled, size)
    gaps = np.abs(sums / size - (pooled.sum() - sums) / (len(pooled) - size))
    seen = abs(pooled[:size].mean() - pooled[size:].mean()) - slack
    return float(np.mean(gaps >= seen - 1e-12))


def sum_splits(pooled: np.ndarray, size: int) -> np.ndarray:
    """The sums of `size` of the values, for every way to pick them, or for SPLITS random ways where there are more."""
    if math.comb(len(pooled), size) <= SPLITS:
        picks = np.array(list(itertools.combinations(range(len(pooled)), size)))
    else:
        picks = np.random.default_rng(0).permuted(np.tile(np.arange(len(pooled)), (SPLITS, 1)), axis=1)[:, :size]
    return pooled[picks].sum(axis=1)


def find_least_chance(one: int, other: int) -> float:
    """The smallest value that `chance` can take with so many seeds on each side."""
    return min(1.0, 2 / math.comb(one + other, one))


def choose_ladder(final: float, start: float, best: float, rungs: int = 4) -> list[float]:
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
