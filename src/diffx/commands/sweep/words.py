"""What the runs of a sweep are called, and what is said before the first begins."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import timedelta

from diffx.config.parse import tree_of
from diffx.config.settings import Settings
from diffx.curves.method import label_apart
from diffx.curves.read import list_leaves
from diffx.processes.devices import write_cost
from diffx.run.folder import RunDir
from diffx.run.name import is_part_of_a_run

SHOWN = 12  # runs that are listed by name


def name_jobs(jobs: Sequence[Settings]) -> dict[str, Settings]:
    """The jobs by their names, which they are given as titles: the plugins, the settings in which jobs of these plugins
    differ, and the seed, as in "repa weight=0.25 s0"."""
    leaves = [{name: one for name, one in list_leaves(tree_of(job)) if is_part_of_a_run(name)} for job in jobs]
    found: dict[str, Settings] = {}
    for job, title in zip(jobs, label_apart([job.label for job in jobs], leaves), strict=True):
        name = f"{title} s{job.seed}"
        name = name if name not in found else f"{name} ({RunDir.of(job).path})"
        found[name] = replace(job, title=title)
    return found


def announce(jobs: Mapping[str, Settings], at_a_time: int) -> str:
    """How many runs, how many at once, and for how long at least, if their budgets say so."""
    names = [*list(jobs)[:SHOWN], *([f"{len(jobs) - SHOWN} more"] if len(jobs) > SHOWN else [])]
    said = f"{len(jobs)} runs, {min(at_a_time, len(jobs))} at a time: {', '.join(names)}"
    budgets = [hours for job in jobs.values() if job.budget for hours in job.budget.hours.items()]
    if len(budgets) < len(jobs):
        steps = sorted({job.max_steps for job in jobs.values()})
        return f"{said}\n{' to '.join(f'{count:,}' for count in dict.fromkeys((steps[0], steps[-1])))} steps each"
    each = " to ".join(dict.fromkeys(write_cost(hours, unit) for unit, hours in (min(budgets), max(budgets))))
    work = sum(hours for _, hours in budgets) / min(at_a_time, len(jobs))
    least = timedelta(seconds=round(work * 3600))
    return f"{said}\n{each} of training each: {least} in all, and what starting and evaluations take on top"
