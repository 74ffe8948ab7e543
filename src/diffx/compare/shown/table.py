"""The tables of a comparison, for the terminal, Markdown and the page; and the CSV, unrounded."""

import csv
import io
from collections.abc import Callable, Sequence
from typing import Any

from diffx.compare.cost import cost_method_step, count_method_flops, take_middle
from diffx.compare.design import find_interactions, find_responses
from diffx.compare.shown.cell import (
    Table,
    count_lost,
    write_bound,
    write_reach,
    write_spread,
    write_times,
)
from diffx.compare.shown.forecast import tabulate_forecasts
from diffx.compare.shown.scaling import tabulate_scaling
from diffx.compare.study import Result, Study, reach_target
from diffx.curves.measured import Measured, read_measured
from diffx.curves.method import Method
from diffx.curves.metric import name_metric
from diffx.curves.read import Run, list_leaves
from diffx.curves.seeds import ENOUGH, Spread, find_least_chance, make_spread, take_median
from diffx.plain import NONE, escape_cell, group, is_number, write_number, write_value
from diffx.run.distances import pick_distances

CLOCKS = {"clock": "", "train_parts": "of train: "}  # entries of run.json in seconds, and how their columns begin
# How often the 95 % interval held the planted speed-up, by seeds a side: benchmarks/compare_coverage.py, all its rows.
COVERAGE = {3: 0.988, 5: 0.986}


def make_tables(study: Study) -> list[Table]:
    """All metrics side by side, each one's values and times, what the runs cost, then interactions and sweeps."""
    results = study.results
    return [
        *summarise(study),
        *(make(study, result) for result in results for make in (tabulate_values, tabulate_times)),
        *(tabulate_epochs(study, result) for result in results),
        *(table for result in results for table in tabulate_forecasts(study, result)),
        *map(tabulate_scaling, study.scalings),
        *tabulate_others(study),
        *tabulate_protocols(study),
        tabulate_sizes(study),
        tabulate_time(study),
        *tabulate_interactions(study),
        *tabulate_sweeps(study),
    ]


def write_caution(study: Study) -> str:
    """What every table of gains says when a method has too few seeds to tell a gain from chance."""
    base = study.baseline
    counts = [(len(base.runs), len(one.runs)) for one in study.others] if base else []
    few = [pair for pair in counts if find_least_chance(*pair) > ENOUGH + 1e-9]
    if not few:
        return ""
    lone = min(min(pair) for pair in few) == 1
    return f"; caution: {'one seed' if lone else 'two seeds'} cannot tell any of this from chance, run three"


def summarise(study: Study) -> list[Table]:
    """Every method in every feature space: its value at equal cost and how much sooner it met the baseline's end."""
    if study.baseline is None or len(study.results) < 2:
        return []
    titles = [name_metric(result.metric, samples=False) for result in study.results]
    header = ("method", *(part for title in titles for part in (title, "gain", "sooner")))
    rows = []
    for method in study.methods:
        cells = [study.mark(method.label) + count_lost(method)]
        for result in study.results:
            one, (_, sooner) = result.outcomes[method.label], result.at_goal(method.label)
            cells += [write_number(one.equal.mean if one.equal else None), write_times(one.ratio)]
            cells.append(NONE if sooner is None else f"{write_bound(sooner.bound)}{sooner.ratio:.3g}×")
        rows.append(tuple(cells))
    costs = dict.fromkeys(f"{write_number(result.equal_cost)} {study.unit_name}" for result in study.results)
    note = (
        f"mean over seeds after {' or '.join(costs)} each; gain: {study.baseline.label}'s value over it; sooner: "
        f"{study.unit_name} of {study.baseline.label} to its final value over those of the method to the same value"
    )
    title = f"Against {study.baseline.label} in every feature space"
    return [Table(title, header, tuple(rows), note + write_caution(study))]


def tabulate_values(study: Study, result: Result) -> Table:
    """Per method: the final value, and the value at equal cost against the baseline."""
    header = ("method", "seeds", "final", f"at {write_number(result.equal_cost)} {study.unit_name}", "gain", "p")
    rows = []
    for method in study.methods:
        one = result.outcomes[method.label]
        luck = f"{one.chance:.2g}" if one.chance is not None else NONE
        counted = str(len(method.runs)) + count_lost(method)
        values = (write_spread(one.final), write_spread(one.equal))
        rows.append((study.mark(method.label), counted, *values, write_times(one.ratio), luck))
    note = "mean [least – greatest seed]; gain: baseline over method at equal cost, above 1 is better"
    if any(one.chance is not None for one in result.outcomes.values()):
        note += (
            "; p: chance of such a gain among equal methods (permutation of seeds), less what interpolation may be off"
        )
    return Table(name_metric(result.metric), header, tuple(rows), note + write_caution(study))


def tabulate_times(study: Study, result: Result) -> Table:
    """Cost of each target per method, the speed-up over the baseline below it."""
    names = [f"{target:.3g}" for target in result.targets]
    if study.baseline is not None:
        names[result.goal] += f" = {study.baseline.label}'s final"
    rows = []
    for method in study.methods:
        one = result.outcomes[method.label]
        cells = [write_reach(met, gain) for met, gain in zip(one.reaches, one.speedups, strict=True)]
        rows.append((study.mark(method.label) + count_lost(method), *cells))
    note = f"{study.unit_name} to reach the value, median over seeds; > not reached, < met at the first evaluation"
    if study.baseline is not None:
        note += f"; ×: speed-up over {study.baseline.label} [95 % t interval over seeds{say_coverage(study)}]"
        note += write_caution(study)
    return Table(f"Time to target: {name_metric(result.metric)}", ("method", *names), tuple(rows), note)


def say_coverage(study: Study) -> str:
    """How often such an interval held the truth in simulated studies with as many seeds."""
    fewest = min((count for m in study.methods if (count := len(m.runs)) > 1), default=0)
    known = COVERAGE.get(fewest)
    return "" if known is None else f", which with {fewest} seeds held the truth in {known:.0%} of simulated cases"


def tabulate_epochs(study: Study, result: Result) -> Table:
    """What a target takes, in epochs (EP@k), steps, images, FLOPs and hours: a row for every method and target that was
    asked for, else for what the baseline ended with."""
    targets = [one for one in result.targets if one in study.asked] or [result.targets[result.goal]]
    axes = [axis for axis in ("step", "images", "train_flops", "cost") if axis in study.points.axes()]
    known = any(count_images(method) for method in study.methods)
    names = {"step": "steps", "images": "images", "train_flops": "FLOPs", "cost": study.cost_name}
    rows = []
    for target in targets:
        for method in study.methods:
            cells = [write_taken(study, result.metric, method, target, axis) for axis in axes]
            epochs = [write_taken(study, result.metric, method, target, "images", count_images(method))]
            rows.append((f"{study.mark(method.label)}{count_lost(method)} ≤ {target:.3g}", *epochs * known, *cells))
    header = ("method and target", *["epochs"] * known, *(names[axis] for axis in axes))
    note = "median over seeds; > not reached, < met at the first evaluation" + (
        "; epochs: passes over the training images, as EP@k counts them" if known else ""
    )
    return Table(f"What a target takes: {name_metric(result.metric)}", header, tuple(rows), note)


def write_taken(
    study: Study, metric: str, method: Method, target: float, axis: str, per_unit: float | None = 1.0
) -> str:
    """The median seed's count on an axis, in units of so many; a dash where the unit is not known."""
    if not per_unit:
        return NONE
    met = take_median(reach_target(method, study.points.curves(method.label, metric, axis), target))
    return f"{write_bound(met.bound)}{write_number(met.cost / per_unit)}"


def count_images(method: Method) -> float | None:
    """Images of an epoch, as run.json has them."""
    found = method.facts.get("training_images")
    return float(found) if isinstance(found, int) and found > 0 else None


def tabulate_others(study: Study) -> list[Table]:
    """What was measured beside the distances, at the end of training: nearest training image, precision, recall."""
    measured = study.points.metrics()
    names = [name for name in measured if name not in pick_distances(measured)]
    if not names:
        return []
    rows = []
    for method in study.methods:
        last = [[run.values(name)[-1] for run in method.runs if run.values(name)] for name in names]
        rows.append((study.mark(method.label), *(write_spread(make_spread(values)) for values in last)))
    floors = [study.floor(name) for name in names]
    if any(floor is not None for floor in floors):
        rows.append(("real images", *map(write_number, floors)))
    note = "at the end of training, mean [least – greatest seed]"
    if "nearest_train" in names:
        note += "; nearest_train: mean distance to the nearest training image, which falls when a model memorises"
    return [Table("Also measured", ("method", *names), tuple(rows), note)]


def tabulate_protocols(study: Study) -> list[Table]:
    """What was measured after training: a table per protocol, under its name, beside that of the curves."""
    every = [(method.label, one) for method in study.methods for run in method.runs for one in read_measured(run)]
    found = group((pair, str(pair[1])) for pair in every)
    chosen = study.methods[0].facts.get("protocol_hash") if study.protocol else None
    return [tabulate_protocol(study, key, some) for key, some in found.items() if not key.endswith(f":{chosen}")]


def tabulate_protocol(study: Study, key: str, found: Sequence[tuple[str, Measured]]) -> Table:
    """The last values of each method under one protocol."""
    names = list(dict.fromkeys(name for _, one in found for name in one.points[-1].values))
    rows = []
    for method in study.methods:
        points = [one.points[-1] for label, one in found if label == method.label]
        values = [[one.values[name] for one in points if name in one.values] for name in names]
        cost = write_number(take_middle(point.cost for point in points))
        rows.append((study.mark(method.label), str(len(points)), cost, *map(write_spread, map(make_spread, values))))
    leaves = list_leaves(found[0][1].facts)
    listed = ", ".join(f"{name} {write_value(value)}" for name, value in leaves if not name.endswith("_target_"))
    return Table(f"Measured under {key}", ("method", "seeds", study.cost_name, *names), tuple(rows), listed)


def measure_runs(method: Method) -> dict[str, Any]:
    """What a method's runs weigh and cost, by the names that the CSV has for it."""
    memory = [run.facts.get("peak_memory_bytes") for run in method.runs]
    return {
        "parameters_backbone": method.facts["parameters"].get("backbone"),
        "parameters_training_only": method.facts["parameters"].get("training_only"),
        "flops_per_step": count_method_flops(method),
        "images_per_second": take_middle(run.facts.get("samples_per_second") for run in method.runs),
        "peak_memory_bytes": max((float(one) for one in memory if one is not None), default=None),
        "total_cost": take_middle(run.last_cost for run in method.runs),
    }


def tabulate_sizes(study: Study) -> Table:
    """Parameters, FLOPs, throughput and memory."""
    header = ("method", "params", "training", "FLOPs", "× FLOPs", "× time", "images/s", "memory")
    rows = []
    for method in study.methods:
        one = measure_runs(method)
        backbone, extra = one["parameters_backbone"], one["parameters_training_only"] or 0
        rows.append((
            study.mark(method.label),
            write_number(backbone),
            write_number(None if backbone is None else backbone + extra),
            write_number(one["flops_per_step"]),
            write_times(divide_by_baseline(study, method, count_method_flops)),
            write_times(divide_by_baseline(study, method, cost_method_step)),
            write_number(one["images_per_second"]),
            write_number(one["peak_memory_bytes"], "B"),
        ))  # fmt: skip
    note = (
        "params: of the model that samples, training: with what only training needs; FLOPs: of a training "
        f"step; × FLOPs, × time: its FLOPs and {study.cost_rule} cost over the baseline's; images/s: median over "
        "seeds; memory: largest peak"
    )
    return Table("Size and speed", header, tuple(rows), note)


def divide_by_baseline(study: Study, method: Method, measure: Callable[[Method], float | None]) -> float | None:
    one, other = measure(method), measure(study.baseline) if study.baseline else None
    return one / other if one and other else None


def tabulate_time(study: Study) -> Table:
    """Where the device-hours went, by the run's clocks, in seconds where they are few; "of train" are parts of the
    training loop."""
    runs = [run for method in study.methods for run in method.runs]
    clocks = list(dict.fromkeys((entry, name) for entry in CLOCKS for run in runs for name in run.facts[entry]))
    hours = []
    for method in study.methods:
        by_clock = [take_middle(count_hours(run, *clock) for run in method.runs) for clock in clocks]
        hours.append([take_middle(run.last_cost for run in method.runs), *by_clock])
    few = max((one for row in hours for one in row if one is not None), default=0.0) < 1
    scale, unit = (3600, "seconds") if few else (1, "hours")
    rows = [
        (study.mark(method.label), *(write_number(None if one is None else one * scale) for one in row))
        for method, row in zip(study.methods, hours, strict=True)
    ]
    spent = [f"{one.label}: {one.facts['offline']}" for one in study.methods if one.facts["offline"]]
    total = study.cost_name.replace("hours", unit)
    note = f"total: {total} up to the last evaluation, as drawn; then device-{unit} by clock; median over seeds"
    note += f"; offline work beside it: {'; '.join(spent)}" if spent else ""
    header = ("method", "total", *(f"{CLOCKS[entry]}{name}" for entry, name in clocks))
    return Table(f"Where the {unit} went", header, tuple(rows), note)


def count_hours(run: Run, entry: str, clock: str) -> float | None:
    """Device-hours of a clock."""
    seconds, count = run.facts[entry].get(clock), run.facts["device"].get("count", 1)
    return None if seconds is None else float(seconds) * (float(count) if is_number(count) else 1.0) / 3600


def tabulate_interactions(study: Study) -> list[Table]:
    """One table per metric: the gain of each part, of both, the surplus, and the factor over multiplying."""
    found = find_interactions(study)
    header = ("A + B", "gain of A", "gain of B", "gain of both", "surplus", "factor", "seeds")
    tables = []
    for result in study.results:
        rows = [
            (
                f"{one.labels[0]} + {one.labels[1]}",
                *(write_spread(part).replace(" [", "\n[") for part in (*one.gains, one.surplus, one.factor)),
                str(one.surplus.count) if one.paired else "unpaired",
            )
            for one in found
            if one.metric == result.metric
        ]
        note = (
            f"gain: baseline's value minus the method's after {write_number(result.equal_cost)} {study.unit_name}; "
            "surplus: gain of both minus the sum, above 0 means more than additive; factor: the same for gains that "
            "multiply, above 1 means more; mean [least – greatest seed]"
        )
        if rows:
            title = f"Interactions: {name_metric(result.metric)}"
            tables.append(Table(title, header, tuple(rows), note + write_caution(study)))
    return tables


def tabulate_sweeps(study: Study) -> list[Table]:
    """A sweep as a table: the setting, the distance at equal cost, and whether it is in the flat region."""
    tables = []
    for one in find_responses(study):
        rows = tuple(
            (*(f"{number:g}" for number in point), write_spread(value), "flat" if place in one.flat else "")
            for place, (point, value) in enumerate(zip(one.points, one.values, strict=True))
        )
        header = (*one.names, f"at {write_number(one.equal_cost)} {study.unit_name}", "")
        note = f"flat region: {one.describe_flat()}"
        note += "; caution: one seed a value cannot tell their order from chance" if one.few else ""
        tables.append(Table(f"Sweep of {one.plugins}: {name_metric(one.metric)}", header, rows, note))
    return tables


def write_csv(study: Study) -> str:
    """One row per method, metric and target, numbers unrounded; empty where nothing was observed."""
    text = io.StringIO()
    rows = [row for result in study.results for method in study.methods for row in make_records(study, result, method)]
    writer = csv.DictWriter(text, fieldnames=list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows({k: escape_cell(v) if isinstance(v, str) else v for k, v in row.items()} for row in rows)
    return text.getvalue()


def make_records(study: Study, result: Result, method: Method) -> list[dict[str, Any]]:
    one = result.outcomes[method.label]
    shared = {
        "method": method.label,
        "plugins": "+".join(method.plugins),
        "seeds": " ".join(map(str, method.seeds)),
        "diverged_seeds": method.diverged,
        "baseline": study.baseline.label if study.baseline else "",
        "cost_unit": " ".join(sorted({run.unit for run in method.runs})),
        "cost_rule": study.cost_rule,
        "rule_hash": study.rule_hash,
        "metric": result.metric,
        **split_spread("final", one.final),
        "equal_cost": result.equal_cost,
        **split_spread("at_equal_cost", one.equal),
        "gain_at_equal_cost": one.ratio,
        "permutation_chance": one.chance,
    }
    rows = []
    for target, met, gain in zip(result.targets, one.reaches, one.speedups, strict=True):
        low, high = gain.interval if gain and gain.interval else (None, None)
        timed = {"target": target, "cost_bound": met.bound, "cost_to_target": met.cost}
        faster = {"speedup_bound": gain.bound if gain else None, "speedup": gain.ratio if gain else None}
        rows.append({**shared, **timed, **faster, "speedup_low": low, "speedup_high": high, **measure_runs(method)})
    return rows


def split_spread(name: str, one: Spread | None) -> dict[str, float | None]:
    return {f"{name}_{part}": getattr(one, part) if one else None for part in ("mean", "low", "high")}
