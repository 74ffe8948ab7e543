"""What a target takes, counted in all that people count: epochs (EP@k), steps, images, FLOPs and hours."""

from diffx.compare.seeds import take_median
from diffx.compare.shown.cell import Table, count_lost, write_bound
from diffx.compare.study import Result, Study, reach_target
from diffx.curves.method import Method
from diffx.curves.metric import name_metric
from diffx.plain import NONE, write_number


def tabulate_epochs(study: Study, result: Result) -> list[Table]:
    """A row for every method and target: those that were asked for, else what the baseline ended with."""
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
    return [Table(f"What a target takes: {name_metric(result.metric)}", header, tuple(rows), note)]


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
