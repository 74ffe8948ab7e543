"""Whether an entry stands: three seeds that reach the target, whole records, and cheaper than the one before."""

import math
import statistics
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from diffx.curves.read import Run, list_leaves
from diffx.curves.seeds import sum_splits
from diffx.errors import DiffxError
from diffx.plain import join, write_number, write_value
from diffx.record.track import Entry, Track, read_entry, read_track

FEWEST = 3  # seeds
ENOUGH = 0.05  # one-sided chance of being so much cheaper by luck, which three seeds against three can reach


@dataclass(frozen=True)
class Finding:
    """What checking an entry gave: its median cost, the record before it, the chance against it, and faults."""

    track: Track
    entry: Entry
    cost: float | None
    before: tuple[str, float] | None  # its name and its median cost
    chance: float | None
    faults: tuple[str, ...]

    @property
    def stands(self) -> bool:
        return not self.faults


def check(folder: Path) -> Finding:
    """The finding on an entry. Raises DiffxError where there is no entry, or its track is not readable."""
    folder = folder.resolve()
    if not folder.is_dir():
        raise DiffxError(f"{folder} does not exist; type the folder of an entry: TRACK/ENTRY, as docs/records.md says.")
    track, entry = read_track(folder.parent), read_entry(folder)
    faults = list(find_faults(track, entry))
    costs = [one.cost for one in entry.reach(track).values() if one.bound == "="]
    cost = statistics.median(costs) if costs else None
    previous = find_before(track, folder)
    if previous is None or cost is None:
        return Finding(track, entry, cost, None, None, tuple(faults))
    # A seed that was never evaluated has no cost at all; one that was, and did not reach it, costs that at least.
    theirs = [one.cost for one in previous.reach(track).values() if one.cost > 0]
    before, chance = (previous.folder.name, statistics.median(theirs)), permute_below(costs, theirs)
    faults += compare_with(before, cost, chance)
    if (own := name_devices(entry)) != (other := name_devices(previous)):
        faults.append(f"it ran on {own}, {before[0]} on {other}: run that one on yours too, and add it as an entry")
    return Finding(track, entry, cost, before, chance, tuple(faults))


def find_faults(track: Track, entry: Entry) -> Iterator[str]:
    """All that an entry lacks by itself, a sentence each."""
    yield from entry.remarks
    if len(entry.methods) > 1:
        labels = join(one.label for one in entry.methods)
        yield f"it holds {len(entry.methods)} methods ({labels}), and an entry is one"
    if len(entry.runs) < FEWEST:
        yield f"it has {len(entry.runs)} seeds; run {FEWEST} at least"
    for run in entry.runs:
        yield from (f"seed {run.seed} {fault}" for fault in find_run_faults(track, run))
    for seed, met in entry.reach(track).items():
        if met.bound == ">":
            yield f"seed {seed} did not reach {track.metric} {track.target:g}"
        elif met.bound == "<":
            yield f"seed {seed} was below {track.target:g} at its first evaluation, so what it cost is not known"
    commits = {str(run.facts["git"].get("commit")) for run in entry.runs}
    if len(commits) > 1:
        yield f"its seeds ran from {len(commits)} commits"


def find_run_faults(track: Track, run: Run) -> Iterator[str]:
    """What one seed lacks: settings, a commit that anyone can check out, the track's protocol and cost."""
    git = run.facts["git"]
    if run.source.config is None or not run.config:
        yield "has no settings beside it (config.yaml, or NAME.yaml)"
    if not git.get("commit"):
        yield "does not say from which commit it ran"
    elif git.get("dirty"):
        yield f"ran from {str(git['commit'])[:10]} with uncommitted changes, so nobody can run it again"
    if run.facts.get("status") != "complete":
        yield f"is {run.facts.get('status') or 'of unknown status'}, not complete"
    if run.unit != track.cost:
        yield f"counts {run.unit}, and the track {track.cost}"
    known = dict(list_leaves(run.facts["protocol"]))
    for key, value in list_leaves(track.protocol):
        if known.get(key) != value:
            yield f"was measured with {key} {write_value(known.get(key))}, and the track has {write_value(value)}"


def name_devices(entry: Entry) -> str:
    """The devices of an entry's seeds, in words."""
    return join(dict.fromkeys(str(run.device or "an unknown device") for run in entry.runs))


def find_before(track: Track, folder: Path) -> Entry | None:
    """The cheapest of the entries whose names come before; the faults of those are their own."""
    earlier = [read_entry(one) for one in track.list_entries() if one.name < folder.name]
    reached = [(statistics.median(r.most for r in one.reach(track).values()), one) for one in earlier if one.runs]
    sound = [(cost, one) for cost, one in reached if math.isfinite(cost)]
    return min(sound, key=lambda pair: pair[0])[1] if sound else None


def compare_with(before: tuple[str, float], cost: float, chance: float) -> list[str]:
    """What speaks against it beside the record before, its name and cost."""
    name, theirs = before
    if cost >= theirs:
        return [f"it costs {write_number(cost)}, and {name} {write_number(theirs)}"]
    if chance > ENOUGH + 1e-9:
        return [f"luck alone makes it as much cheaper than {name} in {chance:.1%} of splits of the seeds"]
    return []


def permute_below(ours: Sequence[float], theirs: Sequence[float]) -> float:
    """One-sided exact permutation test: how often a random split has logarithms of costs lower by as much or more."""
    pooled, size = np.log([*ours, *theirs]), len(ours)
    return float(np.mean(sum_splits(pooled, size) <= pooled[:size].sum() + 1e-12))
