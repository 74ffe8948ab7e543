"""Forecasts of a study: who is asked, the table, the sentences and the fans of the picture."""

import math
from dataclasses import replace

from diffx.compare.ahead.forecast import DRAWS, Forecast, Order, compare_forecasts, forecast_metric
from diffx.compare.ahead.law import FEWEST, can_fit
from diffx.compare.shown.cell import Table
from diffx.compare.study import Result, Study
from diffx.curves.metric import name_metric
from diffx.errors import DiffxError
from diffx.plain import NONE, join, write_number

FARTHEST = 64.0  # times the longest run: what a few evaluations suggest is worth no word beyond
# Of so many 95 % intervals, how many held what came later: benchmarks/forecast_errors.py, all its curves; and those of
# the demo study alone, whose first half leaves nothing to hold back.
HELD, HELD_UNTESTED = (199, 256), (1, 8)
UNTESTED = (
    f"{FEWEST} evaluations a run leave none to hold back, so no forecast was tested on these runs: of the intervals "
    f"made so from the demo study's first half, {HELD_UNTESTED[0]} in {HELD_UNTESTED[1]} held what came"
)


def forecast_study(study: Study, horizon: float, draws: int = DRAWS) -> Study:
    """The study with a forecast of every method in every metric; a remark for what cannot be forecast.

    Raises DiffxError for a horizon inside the runs, or farther than FARTHEST times the longest.
    """
    longest = max(row.cost for row in study.points.rows)
    if not math.isfinite(horizon) or horizon <= longest:
        raise DiffxError(
            f"--forecast {horizon:g} lies within the runs, which go to {write_number(longest)} {study.cost_name}: the "
            "tables read the curves there; type a larger budget."
        )
    if horizon > FARTHEST * longest:
        raise DiffxError(
            f"--forecast {horizon:g} is {horizon / longest:.0f} times the longest run ({write_number(longest)} "
            f"{study.cost_name}); type {write_number(FARTHEST * longest)} or less."
        )
    found: list[Forecast] = []
    unfit: list[str] = []
    tested = False
    for result in study.results:
        curves = {one.label: list(study.curves(one.label, result.metric, sound=True).values()) for one in study.methods}
        fit = {label: seeds for label, seeds in curves.items() if seeds and can_fit(seeds)}
        tested |= any(min(len(seed.x) for seed in seeds) > FEWEST for seeds in fit.values())
        found += forecast_metric(fit, result.metric, study.floor(result.metric) or 0.0, horizon, draws)
        unfit += [label for label in curves if label not in {*fit, *unfit}]
    lacking = f"it takes {FEWEST} evaluations of every seed, above zero, to fit one"
    said = [f"no forecast for {join(unfit)}: {lacking}"] if unfit else []
    said += [UNTESTED] if found and not tested else []
    return replace(study, forecasts=tuple(found), horizon=horizon, remarks=(*study.remarks, *said))


def order(study: Study, result: Result) -> list[Order]:
    """Every method against the baseline at the horizon; empty without a baseline that could be forecast."""
    by_label = study.forecast(result.metric)
    base = by_label.pop(study.baseline.label, None) if study.baseline else None
    return [] if base is None else [compare_forecasts(one, base) for one in by_label.values()]


def tabulate_forecasts(study: Study, result: Result) -> list[Table]:
    """A method's forecast at the horizon, its share of draws below the baseline, and where it passes it."""
    by_label = study.forecast(result.metric)
    if not by_label:
        return []
    against = {one.forecast.label: one for one in order(study, result)}
    base = study.baseline.label if study.baseline else ""
    rows = [(study.mark(label), write_ends(one), *write_order(against.get(label))) for label, one in by_label.items()]
    header = ("method", f"at {write_number(study.horizon)} {study.cost_name}", f"below {base}", f"passes {base}")
    note = (
        "forecast, not measured: median [95 % interval] of a saturating power law with a floor, bootstrapped over "
        "seeds and widened by what it misses of these runs' own later evaluations (back-tested, "
        f"{HELD[0]} of {HELD[1]} held)"
    )
    width = 4 if against else 2
    return [Table(f"Forecast: {name_metric(result.metric)}", header[:width], tuple(row[:width] for row in rows), note)]


def write_ends(one: Forecast) -> str:
    low, middle, high = one.ends
    return f"{middle:.3g} [{low:.3g} – {high:.3g}]"


def write_order(one: Order | None) -> tuple[str, str]:
    """The share of draws, or that it is not to be told; and the cost of the crossing."""
    if one is None:
        return NONE, NONE
    share = f"{one.below:.0%} of draws" + ("" if one.told else ", not to be told")
    return share, NONE if one.crossing is None else write_crossing(one.crossing)


def write_crossing(ends: tuple[float, float, float]) -> str:
    low, middle, high = map(write_number, ends)
    return f"{middle} [{low} – {high}]"


def write_forecast(study: Study, result: Result) -> str:
    """Who would be ahead at the horizon, in one sentence a kind; says so where the runs do not tell."""
    orders = order(study, result)
    if not orders or study.baseline is None:
        return ""
    base = study.baseline.label
    sides = {f"{side} {base}": [say_order(one, base) for one in orders if one.told and (one.below > 0.5) == lower]
             for side, lower in (("below", True), ("above", False))}  # fmt: skip
    untold = [one.forecast.label for one in orders if not one.told]
    parts = [f"{where}: {'; '.join(who)}" for where, who in sides.items() if who]
    parts += [f"whether {join(untold)} would be below {base} is not to be told from these runs"] if untold else []
    head = f"{name_metric(result.metric)} forecast for {write_number(study.horizon)} {study.cost_name} each"
    return f"{head}: {'; '.join(parts)}."


def say_order(one: Order, base: str) -> str:
    said = f"{one.forecast.label} at {write_ends(one.forecast)}"
    return said if one.crossing is None else f"{said}, passing {base} after {write_crossing(one.crossing)}"
