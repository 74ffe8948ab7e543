"""Whether the planner of studies keeps its word: simulated studies of the seeds that it asks for.

A study has a spread of seeds, a method that is lower by so much, and runs that share a seed correlate. The planner says
how many seeds tell it with a chance of 80 % at an error of 5 %; counted is how often they do, by the t test, by the
paired one, and with looks after every seed; and how often each tells a method that is no different. Seeds are normal in
logarithms, then heavy-tailed (Student's t with 4 degrees), which no rule here assumes.

    python -m benchmarks.power_coverage        # the tables of docs/compare.md, half a minute
"""

import math
from itertools import product

import numpy as np
from scipy.special import stdtr

from diffx.power.seeds import as_gap, count_seeds
from diffx.power.sequential import FIRST, find_levels, walk

STUDIES, ERROR, POWER = 100_000, 0.05, 0.8


def draw(rng: np.random.Generator, seeds: int, correlation: float, heavy: bool) -> np.ndarray:
    """Both sides' deviations of unit spread, (2, studies, seeds)."""
    shape = (3, STUDIES, seeds)
    parts = rng.standard_t(4, shape) / math.sqrt(2) if heavy else rng.standard_normal(shape)
    return math.sqrt(correlation) * parts[2] + math.sqrt(1 - correlation) * parts[:2]


def tell_apart(sides: np.ndarray, gap: float) -> float:
    """How often Welch's pooled t test of two sides with n seeds each tells them apart."""
    above, below = sides[0] + gap, sides[1]
    seeds = above.shape[1]
    scale = np.sqrt((above.var(axis=1, ddof=1) + below.var(axis=1, ddof=1)) / seeds)
    t = np.abs(above.mean(axis=1) - below.mean(axis=1)) / scale
    return float(np.mean(2 * stdtr(2 * seeds - 2, -t) <= ERROR))


def tell_with_looks(sides: np.ndarray, gap: float) -> tuple[float, float]:
    """How often the paired test with looks tells them apart, and the seeds that it ran on average."""
    seeds = sides.shape[2]
    stops = walk(sides[0] + gap - sides[1]) <= np.array(find_levels(seeds, ERROR))
    told = stops.any(axis=1)
    return float(told.mean()), float(np.where(told, stops.argmax(axis=1) + FIRST, seeds).mean())


def print_plans() -> None:
    print(
        "| spread | lower by | correlation | seeds, t test | told | null | paired | told | null | told, heavy tails |"
    )
    print("|---:|---:|---:|---:|---:|---:|---:|---:|---:|---:|")
    rng = np.random.default_rng(0)
    for spread, percent, shared in product((0.03, 0.09), (5, 10, 20), (0.0, 0.5)):
        gap = as_gap(percent)
        alone, paired = (count_seeds(spread, gap, ERROR, POWER, one) for one in (None, shared))
        if alone is None or paired is None or max(alone, paired) > 60:
            continue
        sides, both = draw(rng, alone, 0.0, False), draw(rng, paired, shared, False)
        cells = [tell_apart(sides, gap / spread), tell_apart(sides, 0.0)]
        cells += [tell_paired(both, gap / spread), tell_paired(both, 0.0)]
        heavy = tell_paired(draw(rng, paired, shared, True), gap / spread)
        print(f"| {spread:.0%} | {percent} % | {shared:g} | {alone} | {cells[0]:.1%} | {cells[1]:.1%} "
              f"| {paired} | {cells[2]:.1%} | {cells[3]:.1%} | {heavy:.1%} |")  # fmt: skip


def tell_paired(sides: np.ndarray, gap: float) -> float:
    """How often the paired t test after all seeds tells them apart."""
    return float(np.mean(walk_last(sides[0] + gap - sides[1]) <= ERROR))


def walk_last(differences: np.ndarray) -> np.ndarray:
    """Two-sided p of the paired t test of all seeds."""
    seeds = differences.shape[1]
    t = np.abs(differences.mean(axis=1)) / (differences.std(axis=1, ddof=1) / math.sqrt(seeds))
    return 2 * stdtr(seeds - 1, -t)


def print_looks() -> None:
    print("\n| seeds planned | error, normal | error, heavy tails | gap in spreads | told | after on average | told "
          "without looks |")  # fmt: skip
    print("|---:|---:|---:|---:|---:|---:|---:|")
    rng = np.random.default_rng(1)
    for seeds, gap in product((4, 6, 10, 20), (1.0, 2.0)):
        sides, heavy = draw(rng, seeds, 0.0, False), draw(rng, seeds, 0.0, True)
        told, ran = tell_with_looks(sides, gap)
        print(f"| {seeds} | {tell_with_looks(sides, 0.0)[0]:.1%} | {tell_with_looks(heavy, 0.0)[0]:.1%} | {gap:g} "
              f"| {told:.0%} | {ran:.1f} | {tell_paired(sides, gap):.0%} |")  # fmt: skip


if __name__ == "__main__":
    print_plans()
    print_looks()
