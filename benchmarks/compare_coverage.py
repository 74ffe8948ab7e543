"""How often the comparison is right: simulated studies whose truth is planted, read with the comparison's own rules.

A curve is a continuous function of cost. A method with the speed-up r has the baseline's curve at r times the cost, so
its true speed-up is r for every target, and nothing of the rule that reads it is used to make it. Both are evaluated at
steps that are doublings (or half of one) apart; the method's steps cost another amount than the baseline's, so that its
evaluations lie elsewhere.

    python -m benchmarks.compare_coverage                 # the tables of docs/compare.md, about a quarter of an hour
    python -m benchmarks.compare_coverage --studies 50    # a rough look
    python -m benchmarks.compare_coverage --readings 400 --noise 0.05   # how far off planted speed-ups are read
"""

import argparse
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import product

import numpy as np

from diffx.curves.curve import Curve, find_cost, read_value
from diffx.curves.seeds import ENOUGH, choose_ladder, compare_costs, permute, share_error

END = 32.0  # cost at which the baseline ends; its first evaluation is at 1
OWN = 0.004  # spread of seeds that is always there


def plateau(cost: np.ndarray) -> np.ndarray:
    """Falls with 1 / cost, hardly at all between 6 and 14, and again with 1 / cost."""

    def bend(at: float) -> np.ndarray:
        return 0.25 * np.logaddexp(0, (np.log(cost) - math.log(at)) / 0.25)

    return np.exp(math.log(100) - np.log(cost) + 0.9 * (bend(6) - bend(14)))


SHAPES: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "power law": lambda cost: 100 * cost**-0.6,
    "exponential": lambda cost: 60 * np.exp(-cost / 10),
    "floor": lambda cost: 2 + 60 / cost,
    "plateau": plateau,
}
NOISES = (0.0, 0.02, 0.05)
SPEEDUPS = (1.1, 1.2, 1.5, 1.7, 2.5)
STEP_COSTS = (0.5, 0.58, 0.7, 0.84, 1.0, 1.28, 1.5, 2.0)


@dataclass(frozen=True)
class Setting:
    """A kind of study: the shape of its curves, its noise (all of it the seed's, or each evaluation's), its seeds."""

    shape: str
    noise: float
    of_seed: bool
    seeds: int
    per_doubling: int


def make_curves(
    rng: np.random.Generator, setting: Setting, speedup: float = 1.0, step_cost: float = 1.0, end: float = END
) -> list[Curve]:
    """The seeds of one method, evaluated at doublings of its steps and at its end."""
    first = step_cost
    count = math.floor(setting.per_doubling * math.log2(end / first) + 1e-9)
    costs = first * 2 ** (np.arange(count + 1) / setting.per_doubling)
    costs = np.append(costs[costs < end * 0.97], end)
    made = []
    for _ in range(setting.seeds):
        logs = np.log(SHAPES[setting.shape](speedup * costs)) + rng.normal(0, OWN)
        logs += rng.normal(0, setting.noise) if setting.of_seed else rng.normal(0, setting.noise, len(costs))
        made.append(Curve(tuple(costs.tolist()), tuple(np.exp(logs).tolist())))
    return made


def choose_targets(baseline: list[Curve], method: list[Curve]) -> tuple[float, list[float]]:
    """The baseline's final value, and all targets, as a study chooses them."""
    both = [*baseline, *method]
    final = max(curve.y[-1] for curve in baseline)
    return final, choose_ladder(final, min(c.y[0] for c in both), min(min(c.y) for c in both))


@dataclass
class Seen:
    """What studies of one setting gave."""

    covered: int = 0
    intervals: int = 0
    goal_covered: int = 0
    goals: int = 0

    def add(self, truth: float, interval: tuple[float, float], goal: bool) -> None:
        holds = interval[0] <= truth <= interval[1]
        self.covered, self.intervals = self.covered + holds, self.intervals + 1
        self.goal_covered, self.goals = self.goal_covered + (holds and goal), self.goals + goal


def simulate_speedups(rng: np.random.Generator, setting: Setting, studies: int) -> tuple[Seen, dict[float, float]]:
    """Coverage of the interval, and the median reading over the truth for each planted speed-up."""
    seen = Seen()
    ratios: dict[float, list[float]] = {truth: [] for truth in SPEEDUPS}
    for number in range(studies):
        truth = SPEEDUPS[number % len(SPEEDUPS)]
        baseline = make_curves(rng, setting)
        method = make_curves(rng, setting, truth, float(np.exp(rng.uniform(math.log(0.5), math.log(2)))))
        final, targets = choose_targets(baseline, method)
        for target in targets:
            reaches = [[find_cost(curve, target) for curve in side] for side in (baseline, method)]
            gain = compare_costs(*reaches)
            if gain is not None and gain.interval is not None:
                seen.add(truth, gain.interval, target == final)
            if gain is not None and target == final and gain.bound == "=":
                ratios[truth].append(gain.ratio / truth)
    return seen, {truth: float(np.median(found)) for truth, found in ratios.items() if found}


def simulate_reading(rng: np.random.Generator, setting: Setting, truth: float, studies: int) -> tuple[float, float]:
    """The median reading of a planted speed-up over the truth, and that median's own standard error, relative."""
    ratios = []
    for _ in range(studies):
        baseline = make_curves(rng, setting)
        method = make_curves(rng, setting, truth, float(np.exp(rng.uniform(math.log(0.5), math.log(2)))))
        final = choose_targets(baseline, method)[0]
        gain = compare_costs(*([find_cost(curve, final) for curve in side] for side in (baseline, method)))
        if gain is not None and gain.bound == "=":
            ratios.append(math.log(gain.ratio / truth))
    error = 1.2533 * float(np.std(ratios)) / math.sqrt(len(ratios))  # of a median of normal numbers
    return math.expm1(float(np.median(ratios))), error


def simulate_nulls(rng: np.random.Generator, setting: Setting, step_cost: float, studies: int) -> float:
    """How often a method with the baseline's own curve is called different at equal cost, after equally many steps."""
    called = 0
    for _ in range(studies):
        baseline = make_curves(rng, setting)
        method = make_curves(rng, setting, step_cost=step_cost, end=END * step_cost)
        cost = min(baseline[0].end, method[0].end)
        sides = [[read_value(curve, cost) for curve in side] for side in (baseline, method)]
        values = [[one.value for one in side if one] for side in sides]
        slack = sum(share_error(one.errors for one in side if one) for side in sides)
        called += permute(values[0], values[1], slack) <= ENOUGH + 1e-9
    return called / studies


def settings() -> Iterator[Setting]:
    for shape, noise, of_seed, seeds, dense in product(SHAPES, NOISES, (True, False), (3, 5), (1, 2)):
        if noise or of_seed:  # without noise the two kinds of it are one
            yield Setting(shape, noise, of_seed, seeds, dense)


def print_nulls(studies: int) -> None:
    print("\nNull studies: share called different at equal cost (nominal 10 %), by step cost\n")
    print("| shape | noise | seeds | per doubling |" + "".join(f" {cost:g} |" for cost in STEP_COSTS))
    print("|---|---|---|---|" + "---:|" * len(STEP_COSTS))
    rng, every = np.random.default_rng(1), []
    for noise, seeds, dense, shape in product((0.0, 0.02), (3, 5), (1, 2), SHAPES):
        kind = Setting(shape, noise, True, seeds, dense)
        cells = [simulate_nulls(rng, kind, cost, studies) for cost in STEP_COSTS]
        every += cells
        print(
            f"| {shape} | {noise:.0%} | {seeds} | {dense} |" + "".join(f" {cell:.0%} |" for cell in cells), flush=True
        )
    print(f"\nAll of them: {float(np.mean(every)):.1%} of {studies * len(every)} null studies")


def print_coverage(studies: int) -> None:
    print("\nSpeed-ups: coverage of the 95 % interval at all targets (at the baseline's final value), and the reading")
    print("of the planted speed-ups over the truth, median over studies, the furthest off\n")
    print("| shape | noise | of each | seeds | per doubling | coverage | at the final value | furthest reading |")
    print("|---|---|---|---:|---:|---:|---:|---|")
    rng, totals = np.random.default_rng(2), {}  # type: ignore[var-annotated]
    for one in settings():
        seen, readings = simulate_speedups(rng, one, studies)
        worst = max(readings, key=lambda truth: abs(readings[truth] - 1))
        kind = "seed" if one.of_seed else "evaluation"
        print(
            f"| {one.shape} | {one.noise:.0%} | {kind} | {one.seeds} | {one.per_doubling} "
            f"| {seen.covered / seen.intervals:.1%} | {seen.goal_covered / seen.goals:.1%} "
            f"| {worst:g} as {worst * readings[worst]:.3g} ({readings[worst] - 1:+.1%}) |",
            flush=True,
        )
        known = totals.setdefault(one.seeds, Seen())
        known.covered, known.intervals = known.covered + seen.covered, known.intervals + seen.intervals
    for seeds, seen in totals.items():
        print(f"\nAll of them with {seeds} seeds: {seen.covered / seen.intervals:.1%} of {seen.intervals} intervals")


def print_readings(studies: int, noise: float) -> None:
    print(
        "\nPlanted speed-ups at the baseline's final value: median reading over the truth, ± its own standard error\n"
    )
    print("| shape | noise | of each | seeds | per doubling |" + "".join(f" {truth:g} |" for truth in SPEEDUPS))
    print("|---|---|---|---:|---:|" + "---:|" * len(SPEEDUPS))
    rng = np.random.default_rng(3)
    for one in settings():
        if one.noise < noise:
            continue
        cells = [simulate_reading(rng, one, truth, studies) for truth in SPEEDUPS]
        kind = "seed" if one.of_seed else "evaluation"
        print(
            f"| {one.shape} | {one.noise:.0%} | {kind} | {one.seeds} | {one.per_doubling} |"
            + "".join(f" {off:+.1%} ± {error:.1%} |" for off, error in cells),
            flush=True,
        )


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.compare_coverage")
    parser.add_argument("--studies", type=int, default=400, help="simulated studies a row")
    parser.add_argument("--readings", type=int, help="only this: simulated studies for each planted speed-up")
    parser.add_argument("--noise", type=float, default=0.0, help="with --readings: only noise of at least so much")
    given = parser.parse_args()
    if given.readings:
        print_readings(given.readings, given.noise)
        return
    print_nulls(given.studies // 2)
    print_coverage(given.studies)


if __name__ == "__main__":
    main()
