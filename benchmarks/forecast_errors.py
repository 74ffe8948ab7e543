"""How far forecasts are off: the first half of every curve that is known is fitted, the second half is scored.

The curves are the project's own studies (every folder of experiments/ that holds runs) and the published ones of
experiments/published.csv with four points or more. What is forecast is the geometric mean over seeds at the later
evaluations. Beside it stand two guesses that need no law: the last value stays, and the last slope goes on.

    python -m benchmarks.forecast_errors                # the table of docs/compare.md, about a minute
    python -m benchmarks.forecast_errors runs/mine      # other studies
"""

import argparse
import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from diffx.compare.ahead.forecast import forecast_metric
from diffx.compare.ahead.law import FEWEST, can_fit
from diffx.compare.shown.published import find_published, read_published
from diffx.compare.study import make_study
from diffx.curves.curve import Curve
from diffx.curves.metric import name_metric

EXPERIMENTS = Path(__file__).resolve().parents[1] / "experiments"


@dataclass(frozen=True)
class Group:
    """Curves that are forecast together, by method: one metric of one study, or one published curve."""

    name: str
    metric: str
    methods: dict[str, list[Curve]]
    least: float


@dataclass(frozen=True)
class Score:
    """One later evaluation: how far ahead it lies, and logarithms of forecast, guesses and interval over the truth."""

    group: str
    ahead: float  # times the cost of the last evaluation that was fitted
    error: float
    stays: float
    slope: float
    wide: tuple[float, float]  # 95 %
    narrow: tuple[float, float]  # 50 %


def list_groups(studies: Iterable[Path]) -> Iterator[Group]:
    for folder in studies:
        study = make_study([folder], mixed=True)  # each method is forecast from its own curve
        for result in study.results:
            curves = {m.label: list(study.points.curves(m.label, result.metric, sound=True).values())
                      for m in study.methods}  # fmt: skip
            name = f"{folder.name}: {name_metric(result.metric)}"
            yield Group(name, result.metric, {k: v for k, v in curves.items() if v}, study.floor(result.metric) or 0.0)
    by_curve: dict[str, dict[float, float]] = {}
    for row in read_published(find_published()):
        if row["steps"] and row["batch_size"]:
            name = f"published: {row['method']} {row['size']}"
            by_curve.setdefault(name, {})[float(row["steps"]) * float(row["batch_size"])] = float(row["value"])
    for name, points in by_curve.items():
        if len(points) > FEWEST:
            curve = Curve(*zip(*sorted(points.items()), strict=True))
            yield Group(name, "fid_50k", {name: [curve]}, 0.0)


def score_group(group: Group) -> Iterator[Score]:
    """The later evaluations of every method of a group, from forecasts that saw the earlier ones alone."""
    early = {label: [cut(curve) for curve in curves] for label, curves in group.methods.items()}
    early = {label: curves for label, curves in early.items() if can_fit(curves)}
    horizon = max(curve.end for curves in group.methods.values() for curve in curves)
    for one in forecast_metric(early, group.metric, group.least, horizon):
        known, curves = early[one.label], group.methods[one.label]
        first = len(known[0].x)
        start, slope = read_end(known)
        for place in range(first, min(len(curve.x) for curve in curves)):
            cost, truth = mean_at(curves, place)
            draws = [np.interp(math.log(cost), np.log(one.costs), np.log(draw)) - math.log(truth) for draw in one.draws]
            low, early_low, middle, early_high, high = np.quantile(draws, (0.025, 0.25, 0.5, 0.75, 0.975))
            ahead = cost / mean_at(curves, first - 1)[0]
            stays = math.log(start / truth)
            yield Score(group.name, ahead, middle, stays, stays + slope * math.log(ahead), (low, high),
                        (early_low, early_high))  # fmt: skip


def cut(curve: Curve) -> Curve:
    """The first half of a curve's evaluations, three at least."""
    kept = max(FEWEST, math.ceil(len(curve.x) / 2))
    return Curve(curve.x[:kept], curve.y[:kept])


def mean_at(curves: Sequence[Curve], place: int) -> tuple[float, float]:
    """The geometric means over seeds of the cost and the value of one evaluation."""
    x, y = (float(np.exp(np.mean([math.log(side[place]) for side in sides])))
            for sides in ([c.x for c in curves], [c.y for c in curves]))  # fmt: skip
    return x, y


def read_end(curves: Sequence[Curve]) -> tuple[float, float]:
    """The last value, and the slope there in logarithms."""
    last = len(curves[0].x) - 1
    (before, above), (cost, value) = mean_at(curves, last - 1), mean_at(curves, last)
    return value, math.log(value / above) / math.log(cost / before)


def print_scores(scores: Sequence[Score]) -> None:
    print("| curves | points | ahead | median miss | bias | 95 % held | 50 % held | last value stays | last slope |")
    print("|---|---:|---:|---:|---:|---:|---:|---:|---:|")
    names = dict.fromkeys(one.group for one in scores)
    for name in [*names, "all"]:
        print(summarise(name, [one for one in scores if name in (one.group, "all")]))


def summarise(name: str, scores: Sequence[Score]) -> str:
    """One row: the median miss as a factor, which way it goes, coverage, and the misses of the guesses."""
    miss, stays, slope = (
        math.exp(float(np.median([abs(getattr(one, part)) for one in scores]))) for part in ("error", "stays", "slope")
    )
    bias = math.exp(float(np.median([one.error for one in scores])))
    wide, narrow = (
        sum(getattr(one, part)[0] <= 0 <= getattr(one, part)[1] for one in scores) for part in ("wide", "narrow")
    )
    farthest, count = max(one.ahead for one in scores), len(scores)
    return (
        f"| {name} | {count} | {farthest:.2g}× | {miss:.2f}× | {bias:.2f} | {wide}/{count} | {narrow}/{count} "
        f"| {stays:.2f}× | {slope:.2f}× |"
    )


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.forecast_errors")
    parser.add_argument("studies", nargs="*", type=Path, help="studies to score beside the published curves")
    given = parser.parse_args()
    own = sorted(folder.parent for folder in EXPERIMENTS.glob("*/curves"))
    print_scores([score for group in list_groups(given.studies or own) for score in score_group(group)])


if __name__ == "__main__":
    main()
