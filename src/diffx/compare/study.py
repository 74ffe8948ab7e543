"""A study: the methods being compared, and what their curves say in each metric."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from diffx.compare.card import MARK, UNITS, Difference, busy, check_measures, differences, kinship, odd_ones
from diffx.compare.group import Method, choose_baseline, group
from diffx.compare.metric import distances, network_of, title
from diffx.compare.number import compact
from diffx.compare.protocol import under
from diffx.compare.read import Run, read, short
from diffx.compare.target import (
    Curve,
    Reach,
    Speedup,
    Spread,
    chance,
    ladder,
    least_chance,
    median,
    reach,
    speedup,
    spread,
    value_near,
)
from diffx.errors import DiffxError

AXIS_NAMES = {"step": "steps", "images": "images", "train_flops": "training FLOPs"}
SHORT = 0.5  # a run that ends before this share of the usual cost is said to cut the comparison short
ENOUGH = 0.1  # a permutation chance up to here counts as beyond the spread; three seeds a side can reach it


@dataclass(frozen=True)
class Outcome:
    """One method in one metric. `equal` is at the largest cost that all runs reached; `ratio`: baseline over method."""

    final: Spread | None
    equal: Spread | None
    ratio: float | None
    chance: float | None  # None when one side has a single seed
    reaches: tuple[Reach, ...]  # the median over seeds, per target
    speedups: tuple[Speedup | None, ...]  # per target; None for the baseline itself and where nothing can be said


@dataclass(frozen=True)
class Result:
    """One metric: the targets (what all the baseline's seeds ended with is `targets[goal]`), equal cost, outcomes."""

    metric: str
    targets: tuple[float, ...]
    goal: int
    equal_cost: float
    outcomes: dict[str, Outcome]
    floor: float | None


@dataclass(frozen=True)
class Study:
    """All that the tables, figures and words are made from."""

    methods: tuple[Method, ...]
    baseline: Method | None
    results: tuple[Result, ...]
    differences: tuple[Difference, ...]
    kinship: tuple[str, ...]
    busy: tuple[str, ...]  # seeds that a neighbour on the machine seems to have slowed down
    clashes: tuple[str, ...]  # what is measured differently, when --mixed allowed it
    odd: frozenset[str] = frozenset()  # labels that carry the mark of being measured unlike the baseline
    remarks: tuple[str, ...] = ()
    best_so_far: bool = False
    published: tuple[dict[str, str], ...] = ()  # rows of experiments/published.csv
    axis: str = "cost"  # what the results are counted in, one of AXES
    protocol: str | None = None  # the protocol of an evaluation after training, where one was asked for

    def marked(self, label: str) -> str:
        """A label with the mark of being measured unlike the baseline, where it is."""
        return label + (MARK if label in self.odd else "")

    @property
    def cost_name(self) -> str:
        """GPU-hours or CPU-hours."""
        units = {UNITS.get(run.unit, run.unit) for method in self.methods for run in method.runs}
        return " or ".join(sorted(units)) + (", mixed" if len(units) > 1 else "")

    @property
    def unit_name(self) -> str:
        """The unit of the axis in words."""
        return AXIS_NAMES.get(self.axis, self.cost_name)


def study(
    paths: Sequence[Path],
    mixed: bool = False,
    baseline: str | None = None,
    targets: Sequence[float] = (),
    best: bool = False,
    axis: str = "cost",
    protocol: str | None = None,
) -> Study:
    """Reads and compares the runs below the paths; DiffxError when none is usable or they cannot share an axis."""
    runs, remarks = read(paths)
    if not runs:
        said = "\n".join(remarks) or f"no run.json below {', '.join(map(str, paths))}"
        raise DiffxError(f"nothing to compare:\n{said}")
    if protocol is not None:
        runs, said_of_protocol = under(runs, protocol)
        remarks += said_of_protocol
    methods = group([so_far(run) for run in runs] if best else runs)
    clashes = check_measures(methods, mixed)
    chosen, said_of_baseline = choose_baseline(methods, baseline)
    metrics = common_metrics(methods)
    if not metrics:
        raise DiffxError("the runs share no distance (fid_..., fd_...), so no axis can hold them.")
    results = tuple(result(methods, chosen, metric, targets, axis) for metric in metrics)
    return Study(
        methods=tuple(methods),
        baseline=chosen,
        results=results,
        differences=tuple(differences(methods)),
        kinship=tuple(kinship(methods, metrics)),
        busy=tuple(busy(methods)),
        clashes=tuple(clashes),
        odd=frozenset(odd_ones(methods, chosen)) if clashes else frozenset(),
        remarks=(*remarks, *said_of_baseline, *unevenness(methods, metrics), *unmet(results)),
        best_so_far=best,
        axis=axis,
        protocol=protocol,
    )


def along(study: Study, axis: str) -> Study:
    """The same study counted in something else: steps, images or training FLOPs."""
    wanted = [one.targets for one in study.results]
    results = [
        result(study.methods, study.baseline, one.metric, targets, axis)
        for one, targets in zip(study.results, wanted, strict=True)
    ]
    return replace(study, results=tuple(results), axis=axis)


def so_far(run: Run) -> Run:
    """The run with every distance replaced by the least value seen up to then."""
    least: dict[str, float] = {}
    points = []
    for point in run.points:
        for name in distances(point.values):
            least[name] = min(point.values[name], least.get(name, point.values[name]))
        points.append(replace(point, values={**point.values, **least}))
    return replace(run, points=tuple(points))


def common_metrics(methods: Sequence[Method]) -> list[str]:
    """Distances that every method has at least once, in the order of the first run."""
    names = distances(dict.fromkeys(name for point in methods[0].runs[0].points for name in point.values))
    return [name for name in names if all(any(run.series(name)[0] for run in method.runs) for method in methods)]


def curves(method: Method, metric: str, axis: str) -> list[Curve]:
    return [run.series(metric, axis) for run in method.runs if run.series(metric)[0]]


def sound_curves(method: Method, metric: str, axis: str) -> list[Curve]:
    """The seeds that stand for a method: those that did not diverge, or all when all did."""
    sound = replace(method, runs=tuple(run for run in method.runs if not run.diverged))
    return curves(sound, metric, axis) or curves(method, metric, axis)


def result(
    methods: Sequence[Method], baseline: Method | None, metric: str, wanted: Sequence[float], axis: str
) -> Result:
    """What the curves of one metric say about each method."""
    equal_cost = largest_common_cost(methods, metric, axis)
    targets, goal = choose_targets(methods, baseline, metric, wanted, axis)
    outcomes = {method.label: outcome(method, baseline, metric, targets, equal_cost, axis) for method in methods}
    return Result(metric, tuple(targets), goal, equal_cost, outcomes, floor_of(methods, metric))


def floor_of(methods: Sequence[Method], metric: str) -> float | None:
    """What real images score in a metric, as `run.json` says it."""
    known = [(run.facts.get("reference") or {}).get("floor") or {} for method in methods for run in method.runs]
    return next((float(one[metric]) for one in known if one.get(metric) is not None), None)


def outcome(
    method: Method, baseline: Method | None, metric: str, targets: Sequence[float], equal_cost: float, axis: str
) -> Outcome:
    own = curves(method, metric, axis)
    equal = spread([value_near(curve, equal_cost) for curve in own])
    finished = [run.series(metric)[1][-1] for run in method.runs if not run.diverged and run.series(metric)[0]]
    reaches = [[reach(curve, target) for curve in own] for target in targets]
    if baseline is None or baseline.label == method.label:
        nothing: tuple[Speedup | None, ...] = (None,) * len(targets)
        return Outcome(spread(finished), equal, None, None, tuple(map(median, reaches)), nothing)
    base = curves(baseline, metric, axis)
    base_equal = spread([value_near(curve, equal_cost) for curve in base])
    ratio, luck = against(base_equal, equal)
    base_reaches = [[reach(curve, target) for curve in base] for target in targets]
    gains = tuple(speedup(theirs, mine) for theirs, mine in zip(base_reaches, reaches, strict=True))
    return Outcome(spread(finished), equal, ratio, luck, tuple(map(median, reaches)), gains)


def against(baseline: Spread | None, method: Spread | None) -> tuple[float | None, float | None]:
    """Baseline's mean over the method's, and the permutation chance; None where nothing can be divided or permuted."""
    if baseline is None or method is None or method.mean <= 0:
        return None, None
    several = min(baseline.count, method.count) > 1
    return baseline.mean / method.mean, chance(method.values, baseline.values) if several else None


def largest_common_cost(methods: Sequence[Method], metric: str, axis: str) -> float:
    """The cost at which the first run ended; diverged runs do not shorten the others' comparison."""
    runs = [run for method in methods for run in method.runs if run.series(metric)[0]]
    sound = [run for run in runs if not run.diverged]
    return min(run.series(metric, axis)[0][-1] for run in sound or runs)


def choose_targets(
    methods: Sequence[Method], baseline: Method | None, metric: str, wanted: Sequence[float], axis: str
) -> tuple[list[float], int]:
    """Targets from high to low, and the place of the baseline's final value among them.

    That is the final value of its worst seed, which all its seeds reached: a target that some did not would leave the
    cost of the baseline, and with it every speed-up, without an upper end.
    """
    everything = [y for method in methods for _, y in curves(method, metric, axis)]
    final = max(y[-1] for _, y in sound_curves(baseline or methods[0], metric, axis))
    if wanted:
        targets = sorted({*wanted, final}, reverse=True)
    else:
        targets = ladder(final, start=min(y[0] for y in everything), best=min(min(y) for y in everything))
    return targets, targets.index(final)


def unevenness(methods: Sequence[Method], metrics: Sequence[str]) -> list[str]:
    """Remarks on seeds and feature spaces that a reader has to know about."""
    remarks = []
    seeds = {method.seeds for method in methods}
    if len(seeds) > 1:
        listed = "; ".join(f"{method.label}: {' '.join(map(str, method.seeds))}" for method in methods)
        remarks.append(f"unequal seeds ({listed})")
    remarks += [short_run for metric in metrics[:1] for short_run in shortest(methods, metric)]
    if len(spaces(methods, metrics)) < 2:
        remarks.append(
            "only one feature space was measured; a second one would show whether the metric flatters a method"
        )
    return remarks


def spaces(methods: Sequence[Method], metrics: Sequence[str]) -> set[str]:
    """The feature networks behind the metrics; a metric whose network is unknown counts as one of its own."""
    networks = methods[0].facts.get("feature_networks") or []
    return {str(network_of(metric, networks) or metric) for metric in metrics}


def unmet(results: Sequence[Result]) -> list[str]:
    """A remark for each metric in which no target was reached by two methods, so that no times compare."""
    found = []
    for one in results:
        met = [sum(reach.bound != ">" for reach in column) for column in zip(*reaches(one), strict=True)]
        if len(one.outcomes) > 1 and max(met) < 2:
            found.append(f"{title(one.metric)}: no target was reached by two methods, so no times to target compare")
    return found


def reaches(result: Result) -> list[tuple[Reach, ...]]:
    return [outcome.reaches for outcome in result.outcomes.values()]


def shortest(methods: Sequence[Method], metric: str) -> list[str]:
    """A remark when one run ended long before the others, and with it the comparison at equal cost."""
    runs = [run for method in methods for run in method.runs if run.series(metric)[0] and not run.diverged]
    ends = [run.series(metric)[0][-1] for run in runs]
    if not runs or min(ends) > SHORT * (usual := sorted(ends)[len(ends) // 2]):
        return []
    first = runs[ends.index(min(ends))]
    return [
        f"{short(first.folder)} ends at {compact(min(ends))} of the usual {compact(usual)} "
        f"{UNITS.get(first.unit, first.unit)}, and equal cost is there; leave it out to compare the others further on"
    ]


def beyond_spread(outcome: Outcome, seeds: tuple[int, int]) -> bool | None:
    """Whether a difference from the baseline at equal cost exceeds the seeds' spread; None with too few seeds."""
    if outcome.chance is None or least_chance(*seeds) > ENOUGH + 1e-9:
        return None
    return outcome.chance <= ENOUGH + 1e-9
