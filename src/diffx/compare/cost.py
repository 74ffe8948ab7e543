"""What a step was charged: measured, or the same for all that do equal work; and the seeds that a neighbour slowed."""

import statistics
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any

from diffx.curves.method import Method, name_together
from diffx.curves.read import Run
from diffx.errors import DiffxError
from diffx.plain import join, write_number

RULES = {
    "measured": "each run is charged what it measured",
    "normalised": "each method is charged the median step cost of all seeds of methods with the same FLOPs of a step",
}
SAME_WORK = 0.01  # relative: FLOPs of a step that count as the same
UNEQUAL = 0.05  # relative: step costs of equal work that differ by more are called out
TIMED = 30.0  # seconds of training from which on the cost of a step is more than noise
BUSY = 0.1  # relative: seeds of one configuration on an idle machine differ by less


def count_step_flops(run: Run) -> float | None:
    """FLOPs of a training step: of an image, times the images of a step."""
    per_image = run.facts["flops"].get("train_per_image")
    if not per_image or not run.points:
        return None
    images = run.points[-1].images / max(run.last_step, 1)
    return float(per_image) * images if images > 0 else None


def cost_step(run: Run, step: int | None = None) -> float | None:
    """Device-hours of training per step, up to the evaluation at `step` or the last one."""
    point = next((point for point in run.points if point.step == step), run.points[-1] if run.points else None)
    return None if point is None else point.cost / max(point.step, 1)


def take_middle(found: Iterable[Any]) -> float | None:
    """The median of the numbers that are known."""
    known = [float(value) for value in found if value is not None]
    return statistics.median(known) if known else None


def cost_method_step(method: Method) -> float | None:
    return take_middle(map(cost_step, method.runs))


def group_by_work(methods: Sequence[Method]) -> list[list[Method]]:
    """Methods whose steps count the same FLOPs, in groups; those that count none are left out."""
    flops = {method.label: count for method in methods if (count := count_method_flops(method))}
    groups: list[list[Method]] = []
    last = 0.0
    for method in sorted((one for one in methods if one.label in flops), key=lambda one: flops[one.label]):
        count = flops[method.label]
        groups += [] if last and count <= last * (1 + SAME_WORK) else [[]]
        groups[-1].append(method)
        last = count
    return groups


def count_method_flops(method: Method) -> float | None:
    return next((count for run in method.runs if (count := count_step_flops(run))), None)


def charge(methods: Sequence[Method], rule: str) -> list[Method]:
    """The methods with the cost of every evaluation as the rule has it. Raises DiffxError for an unknown rule."""
    if rule not in RULES:
        raise DiffxError(f"--cost {rule} is not known; type one of {', '.join(RULES)}.")
    if rule == "measured":
        return list(methods)
    price = {}
    for group in group_by_work(methods):
        step = take_middle(cost_step(run) for method in group for run in method.runs)
        price.update({method.label: step for method in group if step is not None})
    if lacking := [method.label for method in methods if method.label not in price]:
        raise DiffxError(f"--cost normalised needs the FLOPs of a step, which {join(lacking)} did not record.")
    return [replace(one, runs=tuple(charge_run(run, price[one.label]) for run in one.runs)) for one in methods]


def charge_run(run: Run, price: float) -> Run:
    return replace(run, points=tuple(replace(point, cost=point.step * price) for point in run.points))


def name_equal_work(methods: Sequence[Method], unit: str) -> list[str]:
    """A sentence on every group of methods that do equal work and measured unequal costs of a step."""
    said = []
    for group in group_by_work(methods):
        costs = {method.label: cost for method in group if (cost := cost_method_step(method))}
        if len(costs) < 2 or max(costs.values()) <= min(costs.values()) * (1 + UNEQUAL):
            continue
        least, most = min(costs, key=costs.__getitem__), max(costs, key=costs.__getitem__)
        more = costs[most] / costs[least] - 1
        said.append(
            f"Equal work, unequal cost: a step of {name_together(methods, costs)} takes the same FLOPs "
            f"({write_number(count_method_flops(group[0]))}), yet was measured {more:.0%} dearer for {most} than for "
            f"{least}. What they differ by against {unit} is at least in part the machine's; compare them with --cost "
            "normalised, or against steps."
        )
    return said


def name_busy(methods: Sequence[Method]) -> list[str]:
    """A sentence on the seeds whose steps cost more than their siblings': another process slowed them down."""
    found = []
    for method in methods:
        timed = [run for run in method.runs if (run.last_cost or 0.0) >= TIMED / 3600]
        steps = set.intersection(*({point.step for point in run.points} for run in timed)) if timed else set()
        rates = {run.seed: cost_step(run, max(steps, default=None)) or 0.0 for run in timed}
        excess = {seed: rate / min(rates.values()) - 1 for seed, rate in rates.items() if min(rates.values()) > 0}
        found += [f"{method.label} seed {seed} (+{more:.0%})" for seed, more in excess.items() if more > BUSY]
    if not found:
        return []
    return [
        f"Timed on a busy machine? Each step cost more than the fastest sibling's in {join(found)}: at equal cost "
        f"{'this seed is' if len(found) == 1 else 'these seeds are'} behind by that much for no fault of the method; "
        "against steps it does not show."
    ]
