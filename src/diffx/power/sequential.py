"""Looking at a study after every seed without raising its error: a group-sequential bound.

Of the error, a share is spent at each look that grows as O'Brien and Fleming's bound would have it (Lan and DeMets
1983, Biometrika 70): 2 - 2 Phi(z / sqrt(k / n)) after k of n seeds, with z the two-sided quantile. Seeds are few and
their spread is unknown, so what is looked at is the paired t test of the first k seeds, and normal theory would err too
often (5.6 % for 5 %). The levels are therefore read from simulated null studies: at each look, the one that just spends
its share among the studies that no earlier look has stopped. The null does not depend on the spread, so that is exact
for normal differences but for the simulation's own error.
"""

import math
from collections.abc import Sequence
from functools import lru_cache

import numpy as np
from scipy.special import stdtr
from scipy.stats import norm, ttest_1samp

FIRST = 3  # seeds before the first look: the spread of two says next to nothing
STUDIES = 200_000  # simulated null studies; their error is right to 0.05 % where 5 % is meant


@lru_cache(maxsize=64)
def find_levels(seeds: int, error: float) -> tuple[float, ...]:
    """The two-sided level of the look after each of FIRST..seeds seeds; together they err at `error`."""
    quantile = norm.ppf(1 - error / 2)
    going = walk(np.random.default_rng(0).standard_normal((STUDIES, seeds)))
    levels, spent = [], 0.0
    for k in range(FIRST, seeds + 1):
        total = 2 - 2 * float(norm.cdf(quantile / math.sqrt(k / seeds)))
        place = round((total - spent) * STUDIES)
        now = going[:, k - FIRST]
        level = float(np.partition(now, place)[place]) if place else 0.0
        levels.append(level)
        going, spent = going[now >= level], total
    return tuple(levels)


def walk(differences: np.ndarray) -> np.ndarray:
    """Two-sided p of the paired t test after each of FIRST..n seeds, of studies (studies, n)."""
    count = np.arange(1, differences.shape[1] + 1)
    mean = differences.cumsum(axis=1) / count
    square = (differences**2).cumsum(axis=1) - count * mean**2
    later = slice(FIRST - 1, None)
    freedom = count[later] - 1
    t = np.abs(mean[:, later]) / np.sqrt(square[:, later] / freedom / count[later])
    return 2 * stdtr(freedom, -t)


def expect(seeds: int, spread: float, gap: float, error: float) -> tuple[float, float]:
    """The chance that looking tells a gap, and the seeds that are run on average; `spread` is of paired differences."""
    rng = np.random.default_rng(1)
    stops = walk(rng.normal(gap, max(spread, 1e-12), (STUDIES // 10, seeds))) <= np.array(find_levels(seeds, error))
    told = stops.any(axis=1)
    return float(told.mean()), float(np.where(told, stops.argmax(axis=1) + FIRST, seeds).mean())


def look(differences: Sequence[float], seeds: int, error: float) -> bool:
    """Whether the differences of the first seeds, of `seeds` planned, are told from zero.

    Every earlier look is taken too: what was told once stays told.
    """
    levels = find_levels(seeds, error) if seeds >= FIRST else ()
    looks = range(FIRST, min(len(differences), seeds) + 1)
    return any(chance(differences[:k]) <= levels[k - FIRST] for k in looks)


def chance(differences: Sequence[float]) -> float:
    """Two-sided p of the paired t test."""
    values = np.asarray(differences, dtype=float)
    if float(np.std(values)) == 0:
        return 0.0 if abs(float(values.mean())) > 0 else 1.0
    return float(ttest_1samp(values, 0.0).pvalue)
