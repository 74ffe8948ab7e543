"""`python -m diffx.power RUNS_OR_SIGMA`: how many seeds tell a difference, and what they cost."""

import argparse
import math
import sys
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from diffx.compare.shown.cell import Table
from diffx.compare.study import Result, Study, make_study
from diffx.curves.metric import name_metric
from diffx.errors import DiffxError
from diffx.plain import write_number
from diffx.power.pilot import Pilot, count_run_hours, list_costs, read_pilot
from diffx.power.seeds import MOST, as_gap, count_seeds, tell
from diffx.power.sequential import FIRST, expect

LOOKED = 40  # seeds up to which looking after each of them is planned


def main(arguments: list[str] | None = None) -> int:
    """Exit code 0, or 2 with one sentence when nothing can be planned."""
    given = make_parser().parse_args(arguments)
    try:
        check(given)
        tables = list(plan(given))
    except DiffxError as error:
        print(f"diffx: {error}", file=sys.stderr)
        return 2
    console = Console()
    for table in tables:
        console.print(table)
    return 0


def make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m diffx.power", description="How many seeds tell a difference, and what they cost."
    )
    add = parser.add_argument
    add("pilot", metavar="RUNS_OR_SIGMA", help="pilot runs, or the spread of seeds in percent, such as 5%%")
    add("--difference", type=float, nargs="+", default=[5, 10, 20, 50], metavar="PERCENT",
        help="how much lower a method is (default: 5 10 20 50)")  # fmt: skip
    add("--error", type=float, default=0.05, help="chance to tell a difference where there is none (default: 0.05)")
    add("--power", type=float, default=0.8, help="chance to tell one that is there (default: 0.8)")
    add("--hours", type=float, help="compare run lengths at this many hours for a method and the baseline together")
    add("--baseline", metavar="LABEL", help="what to compare with (default: the method without plugins)")
    return parser


def check(given: argparse.Namespace) -> None:
    """Raises DiffxError for a number that means nothing."""
    for name, value in (("--error", given.error), ("--power", given.power)):
        if not 0 < value < 1:
            raise DiffxError(f"{name} {value:g} is no chance; type a number between 0 and 1.")
    for value in given.difference:
        if not 0 < value < 100:
            raise DiffxError(f"--difference {value:g} is not a share that a value can fall by; type 1 to 99.")
    if given.hours is not None and not 0 < given.hours < math.inf:
        raise DiffxError(f"--hours {given.hours:g} buys nothing; type a number above 0.")


def plan(given: argparse.Namespace) -> Sequence[Table]:
    """From a spread: the seeds. From runs: their spread, the seeds and hours, and more seeds against longer runs."""
    spread = read_spread(given.pilot)
    if spread is not None:
        return [tabulate_seeds("seeds", spread, spread, None, None, given)]
    study = make_study([Path(given.pilot)], baseline=given.baseline)
    found = [(result, read_pilot(study, result, result.equal_cost)) for result in study.results]
    pilots = [(result, pilot) for result, pilot in found if pilot is not None]
    if not pilots:
        raise DiffxError(
            f"no method below {given.pilot} has two seeds, so their spread is not known; run seed=0,1,2, or type a "
            "spread such as 5%."
        )
    tables = [tabulate_spreads(study, [pilot for _, pilot in pilots])]
    for _, pilot in pilots:
        title = f"{name_metric(pilot.metric)}, {write_number(pilot.cost)} {study.cost_name} a run"
        tables.append(tabulate_seeds(title, pilot.spread, pilot.ends[1], pilot.correlation, 2 * pilot.cost, given))
    spend = given.hours or count_pilot_seeds(study) * 2 * count_run_hours(study.methods)
    lengths = [tabulate_lengths(study, result, given, spend) for result, _ in pilots]
    return [*tables, *(table for table in lengths if table.rows)]


def read_spread(text: str) -> float | None:
    """5%, 5 % or 0.05 as 0.05; None for a folder. Raises DiffxError for what is neither."""
    if Path(text).is_dir():
        return None
    try:
        value = float(text.replace("%", "")) / (100 if "%" in text else 1)
    except ValueError:
        raise DiffxError(f"{text} is neither a folder of runs nor a spread such as 5%.") from None
    if not 0 < value < 2:
        raise DiffxError(f"a spread of {text} is not one that seeds have; type it in percent, such as 5%.")
    return value


def tabulate_spreads(study: Study, pilots: Sequence[Pilot]) -> Table:
    """How far seeds lie apart, and what sharing a seed gains."""
    rows = []
    for pilot in pilots:
        low, high = pilot.ends
        shared = pilot.correlation
        gain = "–" if shared is None else f"{1 / (1 - shared):.2g}×"
        told = "–" if shared is None else f"{shared:.2f}"
        rows.append((name_metric(pilot.metric), f"{pilot.spread:.1%} [{low:.1%} – {high:.1%}]",
                     str(pilot.freedom + len(pilot.logs)), told, gain))  # fmt: skip
    cost = write_number(pilots[0].cost)
    note = (
        f"spread: standard deviation of a method's seeds after {cost} {study.cost_name}, pooled over methods [95 % "
        "interval]; correlation: of runs that share a seed and with it data, noise and times; pairing: a paired test "
        "needs so many times fewer seeds. Few pilot seeds say little about a correlation"
    )
    return Table("Spread of seeds", ("metric", "spread", "runs", "correlation", "pairing"), tuple(rows), note)


def tabulate_seeds(
    title: str, spread: float, most: float, correlation: float | None, hours: float | None, given: argparse.Namespace
) -> Table:
    """For every difference: seeds a side unpaired, at the upper end of the spread, paired, and with looks; hours."""
    rows = []
    for percent in given.difference:
        gap = as_gap(percent)
        alone = count_seeds(spread, gap, given.error, given.power)
        cautious = count_seeds(most, gap, given.error, given.power)
        paired = None if correlation is None else count_seeds(spread, gap, given.error, given.power, correlation)
        cells = [write_seeds(alone), write_seeds(cautious), write_seeds(paired) if correlation is not None else "–"]
        cells.append(plan_looks(spread, gap, correlation or 0.0, given))
        cells.append("–" if hours is None or alone is None else write_number(alone * hours))
        rows.append((f"{percent:g} % lower", *cells))
    note = (
        f"seeds a side that tell it with a chance of {given.power:.0%} at an error of {given.error:.0%} (t test of the "
        "logarithms); cautious: if the spread is at the upper end of its interval; looks: at most and on average when "
        f"a paired test looks after every seed from {FIRST} on (sweep_stop={given.error:g}); hours: of "
        "method and baseline. The comparison's own permutation test has no word below three seeds a side"
    )
    header = ("difference", "seeds", "cautious", "paired", "with looks", "hours")
    return Table(f"Seeds for {title}", header, tuple(rows), note)


def write_seeds(count: int | None) -> str:
    return f"> {MOST}" if count is None else str(count)


def plan_looks(spread: float, gap: float, correlation: float, given: argparse.Namespace) -> str:
    """At most and on average, for the least plan that tells the gap often enough; a dash beyond LOOKED seeds."""
    of_differences = spread * (2 - 2 * correlation) ** 0.5
    first = count_seeds(spread, gap, given.error, given.power, correlation)
    for seeds in range(max(FIRST, first or LOOKED + 1), LOOKED + 1):
        told, run = expect(seeds, of_differences, gap, given.error)
        if told >= given.power:
            return f"{seeds}, on average {run:.1f}"
    return "–"


def tabulate_lengths(study: Study, result: Result, given: argparse.Namespace, hours: float) -> Table:
    """At equal hours, from short runs with many seeds to long runs with few: the chance that each tells what the pilot
    saw of every method at that length."""
    others = [one.label for one in study.others] if study.baseline else []
    rows = []
    for cost in list_costs(study, result):
        pilot = read_pilot(study, result, cost)
        seeds = math.floor(hours / (2 * cost) + 1e-9)
        if pilot is None or seeds < 2:
            continue
        gaps = [pilot.gap(label) for label in others]
        chances = ["–" if gap is None else f"{tell(seeds, pilot.spread, abs(gap), given.error):.0%}" for gap in gaps]
        cells = [f"{told}\n{write_gap(gap)}" for told, gap in zip(chances, gaps, strict=True)]
        rows.append((write_number(cost), str(seeds), f"{pilot.spread:.1%}", *cells))
    note = (
        f"{write_number(hours)} {study.cost_name} for a method and the baseline, spent on runs of this length; below "
        "each method: the chance that they tell what the pilot saw there, and how much lower it was. A difference that "
        "changes its sign with the length is another question, not a weaker answer"
    )
    header = (f"{study.cost_name} a run", "seeds a side", "spread", *others)
    return Table(f"More seeds or longer runs: {name_metric(result.metric)}", header, tuple(rows), note)


def count_pilot_seeds(study: Study) -> int:
    """What a design costs unless --hours says more: as much as the pilot spent on a method and the baseline."""
    return min(len(method.runs) for method in study.methods)


def write_gap(gap: float | None) -> str:
    """A gap in logarithms as a share: 0.105 as 10 % lower, -0.105 as 11 % higher."""
    return "–" if gap is None else f"{abs(math.expm1(-gap)):.0%} {'lower' if gap > 0 else 'higher'}"


if __name__ == "__main__":
    sys.exit(main())
