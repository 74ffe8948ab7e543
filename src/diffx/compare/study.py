"""A study: the methods being compared, and what their curves say in each metric."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from diffx.compare.ahead.forecast import Forecast
from diffx.compare.ahead.scaling import Scaling
from diffx.compare.card import MARK, Difference, check_measures, find_differences, find_odd, name_kinship
from diffx.compare.cost import RULES, charge, name_busy, name_equal_work
from diffx.compare.lines import Crossing, cross, pool
from diffx.curves.curve import READING, Curve, Reach, Value, find_cost, read_value
from diffx.curves.measured import pick_measured
from diffx.curves.method import Method, choose_baseline, group_runs
from diffx.curves.metric import find_network, name_metric
from diffx.curves.points import Points, tabulate
from diffx.curves.read import Run, read
from diffx.curves.seeds import (
    Speedup,
    Spread,
    choose_ladder,
    compare_costs,
    make_spread,
    permute,
    share_error,
    take_median,
)
from diffx.errors import DiffxError
from diffx.plain import write_number
from diffx.run.distances import pick_distances
from diffx.store.digest import digest

AXIS_NAMES = {"step": "steps", "images": "images", "train_flops": "training FLOPs"}
SHORT = 0.5  # a run that ends before this share of the usual cost is said to cut the comparison short


@dataclass(frozen=True)
class Outcome:
    """One method in one metric. `equal` is at the largest cost that all runs reached; `ratio`: baseline over method."""

    final: Spread | None
    equal: Spread | None
    ratio: float | None
    chance: float | None  # None when one side has a single seed
    reaches: tuple[Reach, ...]  # the median over seeds, per target
    speedups: tuple[Speedup | None, ...]  # per target; None for the baseline itself and where nothing can be said
    crossings: tuple[Crossing, ...] = ()  # where its line crosses the baseline's


@dataclass(frozen=True)
class Result:
    """One metric: the targets (what all the baseline's seeds ended with is `targets[goal]`), equal cost, outcomes."""

    metric: str
    targets: tuple[float, ...]
    goal: int
    equal_cost: float
    outcomes: dict[str, Outcome]

    def at_goal(self, label: str) -> tuple[Reach, Speedup | None]:
        """What it took a method to reach what the baseline ended with, and how much sooner that was."""
        return self.outcomes[label].reaches[self.goal], self.outcomes[label].speedups[self.goal]


@dataclass(frozen=True)
class Study:
    """All that the tables, pictures and words are made from."""

    methods: tuple[Method, ...]
    baseline: Method | None
    points: Points
    differences: tuple[Difference, ...]
    cautions: tuple[str, ...]  # kinship, busy machines, unequal costs of equal work: part of the card
    clashes: tuple[str, ...]  # what is measured differently, when --mixed allowed it
    results: tuple[Result, ...] = ()
    odd: frozenset[str] = frozenset()  # labels that carry the mark of being measured unlike the baseline
    remarks: tuple[str, ...] = ()
    best_so_far: bool = False
    published: tuple[dict[str, str], ...] = ()  # rows of experiments/published.csv
    axis: str = "cost"  # what the results are counted in, one of AXES
    protocol: str | None = None  # the protocol of an evaluation after training, where one was asked for
    cost_rule: str = "measured"  # one of cost.RULES
    forecasts: tuple[Forecast, ...] = ()  # beyond the runs, of each method and metric, where they were asked for
    horizon: float = 0.0  # the cost up to which they go
    asked: tuple[float, ...] = ()  # targets that were asked for
    scalings: tuple[Scaling, ...] = ()  # of each metric, where they were asked for

    def mark(self, label: str) -> str:
        """A label with the mark of being measured unlike the baseline, where it is."""
        return label + (MARK if label in self.odd else "")

    def result(self, metric: str) -> Result | None:
        """What is said of a metric; None for one that is no distance of all methods."""
        return next((one for one in self.results if one.metric == metric), None)

    def curves(self, label: str, metric: str, sound: bool = False) -> dict[int, Curve]:
        """The curves of a method by seed, on the study's axis; as `Points.curves` has them."""
        return self.points.curves(label, metric, self.axis, sound)

    def floor(self, metric: str) -> float | None:
        """What real images score in a metric, as `run.json` says it."""
        runs = (run for method in self.methods for run in method.runs)
        return next((run.floors[metric] for run in runs if metric in run.floors), None)

    def forecast(self, metric: str) -> dict[str, Forecast]:
        """The forecasts of a metric by label."""
        return {one.label: one for one in self.forecasts if one.metric == metric}

    @property
    def networks(self) -> list[dict[str, str]]:
        """The feature networks that metrics were measured in, as `run.json` lists them."""
        return self.methods[0].facts["feature_networks"]

    @property
    def others(self) -> list[Method]:
        """The methods beside the baseline."""
        return [one for one in self.methods if self.baseline is None or one.label != self.baseline.label]

    @property
    def experiments(self) -> list[str]:
        return list(dict.fromkeys(method.runs[0].key[0] for method in self.methods))

    @property
    def name(self) -> str:
        """The experiments that are compared, in one line."""
        return ", ".join(self.experiments)

    @property
    def cost_name(self) -> str:
        """GPU-hours or CPU-hours."""
        units = {run.unit_name for method in self.methods for run in method.runs}
        rule = "" if self.cost_rule == "measured" else f", {self.cost_rule}"
        return " or ".join(sorted(units)) + (", mixed" if len(units) > 1 else "") + rule

    @property
    def rule_hash(self) -> str:
        """Of how costs are charged and curves read; two studies are alike in that when it is the same."""
        return digest({**READING, "cost": RULES[self.cost_rule], "best so far": self.best_so_far})

    @property
    def unit_name(self) -> str:
        """The unit of the axis in words."""
        return AXIS_NAMES.get(self.axis, self.cost_name)


def make_study(
    paths: Sequence[Path],
    mixed: bool = False,
    baseline: str | None = None,
    targets: Sequence[float] = (),
    best: bool = False,
    axis: str = "cost",
    protocol: str | None = None,
    cost: str = "measured",
) -> Study:
    """Reads and compares the runs below the paths; DiffxError when none is usable or they cannot share an axis."""
    runs, remarks = read(paths)
    if not any(run.points for run in runs):
        below = ", ".join(map(str, paths))
        said = "\n".join(remarks) or f"no run.json, and no pair NAME.json and NAME.jsonl, below {below}"
        raise DiffxError(f"nothing to compare:\n{said}")
    if protocol is not None:
        runs, said_of_protocol = pick_measured(runs, protocol)
        remarks += said_of_protocol
    timed = group_runs([keep_best(run) for run in runs] if best else runs)
    methods = charge(timed, cost)
    clashes = check_measures(methods, mixed)
    chosen, said_of_baseline = choose_baseline(methods, baseline)
    points = tabulate(methods)
    metrics = find_common_metrics(methods, points)
    unequal = name_equal_work(timed, runs[0].unit_name) if cost == "measured" else []
    found = Study(
        tuple(methods), chosen, points,
        differences=tuple(find_differences(methods)),
        cautions=(*name_kinship(methods, metrics), *name_busy(timed), *unequal),
        clashes=tuple(clashes),
        odd=frozenset(find_odd(methods, chosen)) if clashes else frozenset(),
        best_so_far=best, axis=axis, protocol=protocol, cost_rule=cost, asked=tuple(targets),
    )  # fmt: skip
    found = replace(found, results=tuple(compare_metric(found, metric, targets) for metric in metrics))
    return replace(found, remarks=(*remarks, *said_of_baseline, *name_unevenness(found), *name_unmet(found.results)))


def count_in(study: Study, axis: str) -> Study:
    """The same study counted in something else: steps, images or training FLOPs."""
    counted = replace(study, axis=axis)
    return replace(counted, results=tuple(compare_metric(counted, one.metric, one.targets) for one in study.results))


def keep_best(run: Run) -> Run:
    """The run with every distance replaced by the least value seen up to then."""
    least: dict[str, float] = {}
    points = []
    for point in run.points:
        for name in pick_distances(point.values):
            least[name] = min(point.values[name], least.get(name, point.values[name]))
        points.append(replace(point, values={**point.values, **least}))
    return replace(run, points=tuple(points))


def find_common_metrics(methods: Sequence[Method], points: Points) -> list[str]:
    """Distances that every method has at least once, in the order of the first run; a method that diverged before its
    first evaluation has none and is not asked."""
    measured = [method for method in methods if any(run.points for run in method.runs)]
    names = pick_distances(points.metrics())
    shared = [name for name in names if all(points.curves(method.label, name) for method in measured)]
    if not shared:
        raise DiffxError("the runs share no distance (fid_..., fd_...), so no axis can hold them.")
    return shared


def compare_metric(study: Study, metric: str, wanted: Sequence[float]) -> Result:
    """What the curves of one metric say about each method, against the study's axis."""
    curves = {method.label: study.curves(method.label, metric) for method in study.methods}
    equal_cost = find_equal_cost(study.methods, curves)
    targets, goal = choose_targets(study, curves, metric, wanted)
    outcomes = {one.label: weigh(one, study.baseline, curves, targets, equal_cost) for one in study.methods}
    for label, crossings in find_crossings(study, metric).items():
        outcomes[label] = replace(outcomes[label], crossings=crossings)
    return Result(metric, tuple(targets), goal, equal_cost, outcomes)


def find_crossings(study: Study, metric: str) -> dict[str, tuple[Crossing, ...]]:
    """Where the line of each method crosses the baseline's, by label."""
    sound = {one.label: list(study.curves(one.label, metric, sound=True).values()) for one in study.methods}
    lines = {label: pool(curves) for label, curves in sound.items() if curves}
    base = lines.pop(study.baseline.label, None) if study.baseline else None
    return {} if base is None else {label: tuple(cross(line, base)) for label, line in lines.items()}


def weigh(
    method: Method, baseline: Method | None, curves: dict[str, dict[int, Curve]], targets: Sequence[float], cost: float
) -> Outcome:
    """One method against the baseline, at the cost which is equal for all."""
    own = curves[method.label]
    lost = {run.seed for run in method.runs if run.diverged}
    final = make_spread([curve.y[-1] for seed, curve in own.items() if seed not in lost])
    equal = make_spread([one.value for one in read_seeds(own, cost)])
    reaches = [reach_target(method, own, target) for target in targets]
    medians = tuple(map(take_median, reaches))
    if baseline is None or baseline.label == method.label:
        return Outcome(final, equal, None, None, medians, (None,) * len(targets))
    theirs = [reach_target(baseline, curves[baseline.label], target) for target in targets]
    gains = tuple(map(compare_costs, theirs, reaches))
    return Outcome(final, equal, *divide(baseline, method, curves, cost), medians, gains)


def reach_target(method: Method, curves: dict[int, Curve], target: float) -> list[Reach]:
    """The cost of a target for every seed; one that diverged before its first evaluation never reached it."""
    return [find_cost(curves.get(run.seed, Curve((), ())), target) for run in method.runs]


def read_seeds(curves: dict[int, Curve], cost: float) -> list[Value]:
    """The values of the seeds that were trained that far; seeds that diverged before are not among them."""
    return [value for curve in curves.values() if (value := read_value(curve, cost)) is not None]


def divide(
    baseline: Method, method: Method, curves: dict[str, dict[int, Curve]], cost: float
) -> tuple[float | None, float | None]:
    """Baseline's mean over the method's, and the permutation chance; None where nothing can be divided or permuted.

    In the permutation a seed that diverged counts as the worst value of all seeds.
    """
    theirs, own = (read_seeds(curves[one.label], cost) for one in (baseline, method))
    above, below = (make_spread([one.value for one in side]) for side in (theirs, own))
    if above is None or below is None or below.mean <= 0:
        return None, None
    slack = share_error(one.errors for one in theirs) + share_error(one.errors for one in own)
    worst = max(above.high, below.high)
    above_all, below_all = (
        [*seen.values, *[worst] * min(one.diverged, len(one.runs) - seen.count)]
        for one, seen in ((baseline, above), (method, below))
    )
    several = min(len(above_all), len(below_all)) > 1
    return above.mean / below.mean, permute(below_all, above_all, slack) if several else None


def find_equal_cost(methods: Sequence[Method], curves: dict[str, dict[int, Curve]]) -> float:
    """The cost at which the first run ended; diverged runs do not shorten the others' comparison."""
    lost = {(method.label, run.seed) for method in methods for run in method.runs if run.diverged}
    ends = {(label, seed): curve.end for label, seeds in curves.items() for seed, curve in seeds.items()}
    sound = [end for key, end in ends.items() if key not in lost]
    return min(sound or ends.values())


def choose_targets(
    study: Study, curves: dict[str, dict[int, Curve]], metric: str, wanted: Sequence[float]
) -> tuple[list[float], int]:
    """Targets from high to low, and the place of the baseline's final value among them.

    That is the final value of its worst seed, which all its seeds reached: a target that some did not would leave the
    cost of the baseline, and with it every speed-up, without an upper end.
    """
    everything = [curve.y for seeds in curves.values() for curve in seeds.values()]
    first = next(one.label for one in (study.baseline, *study.methods) if one is not None and curves[one.label])
    final = max(curve.y[-1] for curve in study.points.curves(first, metric, sound=True).values())
    ladder = choose_ladder(final, start=min(y[0] for y in everything), best=min(min(y) for y in everything))
    targets = sorted({*wanted, final}, reverse=True) if wanted else ladder
    return targets, targets.index(final)


def name_unevenness(study: Study) -> list[str]:
    """Remarks on seeds, settings and feature spaces that a reader has to know about."""
    remarks, methods = [], study.methods
    if len({method.seeds for method in methods}) > 1:
        listed = "; ".join(f"{method.label}: {' '.join(map(str, method.seeds))}" for method in methods)
        remarks.append(f"unequal seeds ({listed})")
    unset = [run.source.name for method in methods for run in method.runs if run.source.config is None]
    if unset:
        remarks.append(
            f"{len(unset)} runs have no settings beside them ({unset[0]}, ...), so the card compares only what their "
            "records say: devices, versions, protocols"
        )
    remarks += name_shortest(methods)
    if len(find_spaces(study)) < 2:
        remarks.append(
            "only one feature space was measured; a second one would show whether the metric flatters a method"
        )
    return remarks


def find_spaces(study: Study) -> set[str]:
    """The feature networks behind the metrics; a metric whose network is unknown counts as one of its own."""
    return {str(find_network(one.metric, study.networks) or one.metric) for one in study.results}


def name_unmet(results: Sequence[Result]) -> list[str]:
    """A remark for each metric in which no target was reached by two methods, so that no times compare."""
    found = []
    for one in results:
        columns = zip(*(outcome.reaches for outcome in one.outcomes.values()), strict=True)
        met = [sum(reach.bound != ">" for reach in column) for column in columns]
        if len(one.outcomes) > 1 and max(met) < 2:
            name = name_metric(one.metric)
            found.append(f"{name}: no target was reached by two methods, so no times to target compare")
    return found


def name_shortest(methods: Sequence[Method]) -> list[str]:
    """A remark when one run ended long before the others, and with it the comparison at equal cost."""
    runs = [run for method in methods for run in method.runs if run.points and not run.diverged]
    ends = [run.points[-1].cost for run in runs]
    if not runs or min(ends) > SHORT * (usual := sorted(ends)[len(ends) // 2]):
        return []
    first = runs[ends.index(min(ends))]
    return [
        f"{first.source.name} ends at {write_number(min(ends))} of the usual {write_number(usual)} "
        f"{first.unit_name}, and equal cost is there; leave it out to compare the others further on"
    ]


def measure_fall(study: Study, result: Result) -> float | None:
    """How many times the baseline falls over the last doubling before equal cost; None where it is not known."""
    if study.baseline is None:
        return None
    curves = study.curves(study.baseline.label, result.metric, sound=True)
    costs = (result.equal_cost / 2, result.equal_cost)
    before, after = (make_spread([one.value for one in read_seeds(curves, cost)]) for cost in costs)
    return None if before is None or after is None or after.mean <= 0 else before.mean / after.mean
