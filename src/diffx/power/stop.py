"""Ending a sweep early: a method that is told from the baseline is not run with further seeds (`sweep_stop=0.05`)."""

import math
from collections.abc import Callable, Mapping, Sequence

from diffx.config.settings import Settings
from diffx.curves.curve import read_value
from diffx.curves.method import Method
from diffx.curves.points import Points, tabulate
from diffx.curves.read import Run, read
from diffx.errors import DiffxError
from diffx.power.sequential import FIRST, look
from diffx.run.distances import pick_distances
from diffx.run.folder import RunDir

Round = Callable[[Mapping[str, Settings]], list[str]]  # runs jobs by name, and returns a sentence for each that failed


def run_in_rounds(named: Mapping[str, Settings], run: Round) -> list[str]:
    """The jobs seed by seed, all methods of a seed in one round; after each, methods that are told stop.

    A method is told when the group-sequential bound of `sequential.look` is passed, in the same direction or not, by
    every distance. Its error is that of `sweep_stop` for each method alone; several methods are not corrected for, as
    nowhere in the comparison. When all are told, the baseline stops too.

    Raises:
        DiffxError: fewer seeds than looks need, no single baseline, or a rule that breaks runs off as well; before
            anything has run.
    """
    jobs = list(named.values())
    if jobs[0].sweep_prune is not None:
        raise DiffxError(
            "sweep_stop compares the ends of runs over seeds, and sweep_prune breaks runs off before their ends; "
            "leave one of the two out."
        )
    error, seeds = jobs[0].sweep_stop or 0.0, list(dict.fromkeys(job.seed for job in jobs))
    baseline = find_baseline(jobs)
    if len(seeds) <= FIRST:
        raise DiffxError(
            f"sweep_stop={error:g} looks after each seed from the third on, and this sweep has {len(seeds)}, so "
            f"nothing could stop; type seed=range({2 * FIRST}), or leave sweep_stop out."
        )
    going = {job.id: job.label for job in jobs if job.id != baseline}
    failed: list[str] = []
    for place, seed in enumerate(seeds, start=1):
        kept = {*going, baseline}
        failed += run({name: job for name, job in named.items() if job.seed == seed and job.id in kept})
        rest = len(seeds) - place
        told = [key for key in going if is_told(jobs, baseline, key, seeds[:place], rest, error)] if rest else []
        for key in told:
            print(f"sweep_stop: {going.pop(key)} is told from the baseline after {place} seeds; {rest} are not run.")
        if not going:
            break
    return failed


def find_baseline(jobs: Sequence[Settings]) -> str:
    """The id of the one method without plugins, which must be beside others."""
    plain = {job.id for job in jobs if not job.plugins}
    if len(plain) != 1 or len({job.id for job in jobs}) == 1:
        raise DiffxError(
            f"sweep_stop compares methods with the one that has no plugins, and this sweep has {len(plain)} without "
            f"and {len({job.id for job in jobs} - plain)} with some; type plugins=[],[...], or leave sweep_stop out."
        )
    return plain.pop()


def is_told(
    jobs: Sequence[Settings], baseline: str, method: str, seeds: Sequence[int], rest: int, error: float
) -> bool:
    """Whether every distance tells a method from the baseline by the seeds run so far, with `rest` more planned; never
    when one diverged. What an interrupted sweep has left of later seeds is not looked at."""
    runs = {key: read_runs([job for job in jobs if job.id == key and job.seed in seeds]) for key in (baseline, method)}
    if not all(runs.values()) or any(run.diverged for several in runs.values() for run in several):
        return False
    points = tabulate([Method(key, tuple(several)) for key, several in runs.items()])
    gaps = [find_differences(points, baseline, method, metric, seeds) for metric in pick_distances(points.metrics())]
    return bool(gaps) and all(look(one, len(seeds) + rest, error) for one in gaps)


def read_runs(jobs: Sequence[Settings]) -> list[Run]:
    """What was measured so far."""
    folders = [RunDir.of(job).path for job in jobs]
    return read([folder for folder in folders if (folder / "run.json").exists()])[0]


def find_differences(points: Points, baseline: str, method: str, metric: str, seeds: Sequence[int]) -> list[float]:
    """Logarithms of the baseline's value over the method's at the seeds that both ran, at the end of the shorter; in
    the order in which they ran, which looks rest on."""
    sides = [points.curves(label, metric) for label in (baseline, method)]
    found = []
    for seed in (one for one in seeds if all(one in side for side in sides)):
        cost = min(side[seed].end for side in sides)
        values = [read_value(side[seed], cost) for side in sides]
        if all(one is not None and one.value > 0 for one in values):
            found.append(math.log(values[0].value / values[1].value))  # type: ignore[union-attr]
    return found
