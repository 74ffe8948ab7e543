"""The tables of a comparison as text cells, for the terminal and Markdown; and the CSV with unrounded numbers."""

import csv
import io
import math
import re
import statistics
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import rich.box
import rich.markup
import rich.table
from rich.console import Group
from rich.text import Text

from diffx.compare.card import cost_per_step
from diffx.compare.group import Method, is_number, shown
from diffx.compare.metric import distances, title
from diffx.compare.number import NONE, compact
from diffx.compare.protocol import Measured, measured
from diffx.compare.read import plain_values
from diffx.compare.study import Result, Study, floor_of
from diffx.compare.target import COVERAGE, Reach, Speedup, Spread, spread

SAMPLES = re.compile(r" \(.* samples\)$")
CLOCKS = {"clock": "", "train_parts": "of train: "}  # entries of run.json in seconds, and how their columns begin


@dataclass(frozen=True)
class Table:
    """Title, header, rows of cells (the first is text, the others numbers) and a line that says how to read it."""

    title: str
    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    note: str = ""

    def markdown(self) -> str:
        """A GitHub-flavoured Markdown table under its title."""
        head = f"| {' | '.join(map(escaped, self.header))} |"
        rule = "|---|" + "---:|" * (len(self.header) - 1)
        lines = [f"| {' | '.join(map(escaped, row))} |" for row in self.rows]
        return "\n".join([f"### {self.title}", "", head, rule, *lines, *(["", self.note] if self.note else [])])

    def rich(self) -> Group:
        """The same for the terminal."""
        drawn = rich.table.Table(title=self.title, title_justify="left", title_style="bold", pad_edge=False,
                                 box=rich.box.SIMPLE_HEAD)  # fmt: skip
        for place, name in enumerate(self.header):
            drawn.add_column(name, justify="right" if place else "left", no_wrap=place == 0, overflow="fold")
        for row in self.rows:
            drawn.add_row(*(rich.markup.escape(cell) for cell in row))
        return Group(drawn, Text(f"{self.note}\n" if self.note else "", style="dim"))


def tables(study: Study) -> list[Table]:
    """All metrics side by side, each one's values and time-to-target, then what the runs cost."""
    per_metric = [table(study, result) for result in study.results for table in (values, times)]
    return [*summary(study), *per_metric, *others(study), *protocols(study), sizes(study), hours(study)]


def summary(study: Study) -> list[Table]:
    """Every method in every feature space: its value at equal cost and how much sooner it met the baseline's end."""
    if study.baseline is None or len(study.results) < 2:
        return []
    header = [part for result in study.results for part in (SAMPLES.sub("", title(result.metric)), "gain", "sooner")]
    rows = []
    for method in study.methods:
        row = [method.label]
        for result in study.results:
            one = result.outcomes[method.label]
            sooner = one.speedups[result.goal]
            bound = "" if sooner is None or sooner.bound == "=" else f"{sooner.bound} "
            row += [compact(one.equal.mean if one.equal else None), times_of(one.ratio)]
            row.append(NONE if sooner is None else f"{bound}{sooner.ratio:.2g}×")
        rows.append((study.marked(row[0]), *row[1:]))
    costs = dict.fromkeys(f"{compact(result.equal_cost)} {study.unit_name}" for result in study.results)
    note = (
        f"mean over seeds after {' or '.join(costs)} each; gain: {study.baseline.label}'s value over it; sooner: "
        f"{study.unit_name} of {study.baseline.label} to its final value over those of the method to the same value"
    )
    return [Table(f"Against {study.baseline.label} in every feature space", ("method", *header), tuple(rows), note)]


def values(study: Study, result: Result) -> Table:
    """Per method: the final value, and the value at equal cost against the baseline."""
    header = ("method", "seeds", "final", f"at {compact(result.equal_cost)} {study.unit_name}", "gain", "p")
    rows = []
    for method in study.methods:
        one = result.outcomes[method.label]
        gain = f"{one.ratio:.2f}×" if one.ratio is not None else NONE
        luck = f"{one.chance:.2g}" if one.chance is not None else NONE
        row = (study.marked(method.label), seeds(method), ranged(one.final), ranged(one.equal), gain, luck)
        rows.append(row)
    note = "mean [least – greatest seed]; gain: baseline over method at equal cost, above 1 is better"
    if any(one.chance is not None for one in result.outcomes.values()):
        note += "; p: chance of such a gain among equal methods (permutation of seeds)"
    return Table(title(result.metric), header, tuple(rows), note)


def others(study: Study) -> list[Table]:
    """What was measured beside the distances, at the end of training: nearest training image, precision, recall."""
    runs = [run for method in study.methods for run in method.runs]
    measured = dict.fromkeys(name for run in runs for point in run.points for name in point.values)
    names = [name for name in measured if name not in distances(measured)]
    if not names:
        return []
    rows = []
    for method in study.methods:
        last = [[run.series(name)[1][-1] for run in method.runs if run.series(name)[1]] for name in names]
        rows.append((study.marked(method.label), *(ranged(spread(values)) for values in last)))
    floors = [floor_of(study.methods, name) for name in names]
    if any(floor is not None for floor in floors):
        rows.append(("real images", *map(compact, floors)))
    note = "at the end of training, mean [least – greatest seed]"
    if "nearest_train" in names:
        note += "; nearest_train: mean distance to the nearest training image, which falls when a model memorises"
    return [Table("Also measured", ("method", *names), tuple(rows), note)]


def protocols(study: Study) -> list[Table]:
    """What was measured after training: a table per protocol, under its name, beside that of the curves."""
    values: dict[str, dict[str, list[Measured]]] = {}
    for method in study.methods:
        for run in method.runs:
            for one in measured(run):
                values.setdefault(str(one), {}).setdefault(method.label, []).append(one)
    chosen = study.methods[0].facts.get("protocol_hash") if study.protocol else None
    return [protocol_table(study, key, found) for key, found in values.items() if not key.endswith(f":{chosen}")]


def protocol_table(study: Study, key: str, found: dict[str, list[Measured]]) -> Table:
    """The last values of each method under one protocol."""
    last = {label: [one.points[-1] for one in several] for label, several in found.items()}
    names = list(dict.fromkeys(name for points in last.values() for point in points for name in point.values))
    rows = []
    for method in study.methods:
        points = last.get(method.label, [])
        cells = (ranged(spread([point.values[name] for point in points if name in point.values])) for name in names)
        row = (str(len(points)), compact(middle(point.cost for point in points)), *cells)
        rows.append((study.marked(method.label), *row))
    facts = next(iter(found.values()))[0].facts
    listed = ", ".join(f"{name} {shown(value)}" for name, value in plain_values(facts) if not name.endswith("_target_"))
    return Table(f"Measured under {key}", ("method", "seeds", study.cost_name, *names), tuple(rows), listed)


def times(study: Study, result: Result) -> Table:
    """Cost of each target per method, the speed-up over the baseline below it."""
    names = [f"{target:.3g}" for target in result.targets]
    if study.baseline is not None:
        names[result.goal] += f" = {study.baseline.label}'s final"
    rows = []
    for method in study.methods:
        one = result.outcomes[method.label]
        cells = [timed(met, gain) for met, gain in zip(one.reaches, one.speedups, strict=True)]
        rows.append((study.marked(method.label), *cells))
    note = f"{study.unit_name} to reach the value, median over seeds; > not reached, < met at the first evaluation"
    if study.baseline is not None:
        note += f"; ×: speed-up over {study.baseline.label} [95 % bootstrap interval over seeds{coverage(study)}]"
    return Table(f"Time to target: {title(result.metric)}", ("method", *names), tuple(rows), note)


def coverage(study: Study) -> str:
    """How much less than 95 % of the truth an interval over so few seeds covers."""
    fewest = min((count for m in study.methods if (count := len(m.runs)) > 1), default=0)
    known = COVERAGE.get(fewest)
    return "" if known is None else f", which with {fewest} seeds covers the truth in {known:.0%} of cases"


def sizes(study: Study) -> Table:
    """Parameters, FLOPs, throughput and memory."""
    header = ("method", "params", "training", "FLOPs", "× FLOPs", "× time", "images/s", "memory")
    rows = []
    for method in study.methods:
        parameters = method.facts.get("parameters") or {}
        backbone, extra = parameters.get("backbone"), parameters.get("training_only") or 0
        row = (
            study.marked(method.label),
            compact(backbone),
            compact(None if backbone is None else backbone + extra),
            compact(flops_per_step(method)),
            times_of(relative(study, method, flops_per_step)),
            times_of(relative(study, method, step_cost)),
            compact(middle(run.facts.get("samples_per_second") for run in method.runs)),
            compact(greatest(run.facts.get("peak_memory_bytes") for run in method.runs), "B"),
        )
        rows.append(row)
    note = (
        "params: of the model that samples, training: with what only training needs; FLOPs: of a training "
        "step; × FLOPs, × time: its FLOPs and measured cost over the baseline's; images/s: median over seeds; memory: "
        "largest peak"
    )
    return Table("Size and speed", header, tuple(rows), note)


def hours(study: Study) -> Table:
    """Where the device-hours went, by the run's clocks; "of train" are parts of the training loop."""
    runs = [run for method in study.methods for run in method.runs]
    clocks = list(
        dict.fromkeys((entry, name) for entry in CLOCKS for run in runs for name in run.facts.get(entry) or {})
    )
    rows = []
    for method in study.methods:
        total = compact(middle(run.points[-1].cost for run in method.runs))
        split = [compact(middle(device_hours(run.facts, *clock) for run in method.runs)) for clock in clocks]
        rows.append((study.marked(method.label), total, *split))
    note = (
        f"total: {study.cost_name} up to the last evaluation, as drawn; then device-hours by clock; median over seeds"
    )
    header = ("method", "total", *(f"{CLOCKS[entry]}{name}" for entry, name in clocks))
    return Table("Where the hours went", header, tuple(rows), note + offline(study))


def offline(study: Study) -> str:
    spent = [f"{m.label}: {m.facts['offline']}" for m in study.methods if m.facts.get("offline")]
    return f"; offline work beside it: {'; '.join(spent)}" if spent else ""


def comma_separated(study: Study) -> str:
    """One row per method, metric and target, numbers unrounded; empty where nothing was observed."""
    text = io.StringIO()
    rows = [row for result in study.results for method in study.methods for row in records(study, result, method)]
    writer = csv.DictWriter(text, fieldnames=list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def records(study: Study, result: Result, method: Method) -> list[dict[str, Any]]:
    one = result.outcomes[method.label]
    parameters = method.facts.get("parameters") or {}
    shared = {
        "method": method.label,
        "plugins": "+".join(method.plugins),
        "seeds": " ".join(map(str, method.seeds)),
        "diverged_seeds": sum(run.diverged for run in method.runs),
        "baseline": study.baseline.label if study.baseline else "",
        "cost_unit": " ".join(sorted({run.unit for run in method.runs})),
        "metric": result.metric,
        **numbers("final", one.final),
        "equal_cost": result.equal_cost,
        **numbers("at_equal_cost", one.equal),
        "gain_at_equal_cost": one.ratio,
        "permutation_chance": one.chance,
    }
    after = {
        "parameters_backbone": parameters.get("backbone"),
        "parameters_training_only": parameters.get("training_only"),
        "flops_per_step": flops_per_step(method),
        "images_per_second": middle(run.facts.get("samples_per_second") for run in method.runs),
        "peak_memory_bytes": greatest(run.facts.get("peak_memory_bytes") for run in method.runs),
        "total_cost": middle(run.points[-1].cost for run in method.runs),
    }
    rows = []
    for target, met, gain in zip(result.targets, one.reaches, one.speedups, strict=True):
        low, high = gain.interval if gain and gain.interval else (None, None)
        timed = {"target": target, "cost_bound": met.bound, "cost_to_target": met.cost}
        faster = {"speedup_bound": gain.bound if gain else None, "speedup": gain.ratio if gain else None}
        rows.append({**shared, **timed, **faster, "speedup_low": low, "speedup_high": high, **after})
    return rows


def numbers(name: str, one: Spread | None) -> dict[str, float | None]:
    return {f"{name}_{part}": getattr(one, part) if one else None for part in ("mean", "low", "high")}


def flops_per_step(method: Method) -> float | None:
    per_image = (method.facts.get("flops") or {}).get("train_per_image")
    batch: Any = method.runs[0].config.get("batch_size")
    return float(per_image) * float(batch) if per_image and is_number(batch) else None


def step_cost(method: Method) -> float | None:
    return middle(cost_per_step(run) for run in method.runs)


def relative(study: Study, method: Method, measure: Callable[[Method], float | None]) -> float | None:
    """A method's measure over the baseline's."""
    one, other = measure(method), measure(study.baseline) if study.baseline else None
    return one / other if one and other else None


def times_of(ratio: float | None) -> str:
    return NONE if ratio is None else f"{ratio:.2f}×"


def device_hours(facts: dict[str, Any], entry: str, clock: str) -> float | None:
    seconds = (facts.get(entry) or {}).get(clock)
    return None if seconds is None else float(seconds) * float((facts.get("device") or {}).get("count") or 1) / 3600


def middle(found: Iterable[Any]) -> float | None:
    known = [float(value) for value in found if value is not None]
    return statistics.median(known) if known else None


def greatest(found: Iterable[Any]) -> float | None:
    return max((float(value) for value in found if value is not None), default=None)


def ranged(one: Spread | None) -> str:
    if one is None:
        return NONE
    return f"{one.mean:.3g}" if one.count == 1 else f"{one.mean:.3g} [{one.low:.3g} – {one.high:.3g}]"


def timed(met: Reach, gain: Speedup | None) -> str:
    cost = f"{met.bound if met.bound != '=' else ''}{' ' if met.bound != '=' else ''}{compact(met.cost)}"
    if gain is None:
        return cost
    sign = "" if gain.bound == "=" else f"{gain.bound} "
    return f"{cost}\n{sign}{gain.ratio:.2g}×{interval(gain.interval)}"


def interval(ends: tuple[float, float] | None) -> str:
    return "" if ends is None else f" [{'–'.join('∞' if math.isinf(end) else f'{end:.2g}' for end in ends)}]"


def seeds(method: Method) -> str:
    diverged = sum(run.diverged for run in method.runs)
    return str(len(method.runs)) + (f" ({diverged} diverged)" if diverged else "")


def escaped(cell: str) -> str:
    return cell.replace("|", "\\|").replace("\n", "<br>")
