"""What the runs show, in a few plain sentences; and the caption that has to stand under every picture."""

from collections.abc import Sequence

from diffx.compare.card import MARK, join
from diffx.compare.group import Method, shown
from diffx.compare.metric import title
from diffx.compare.number import compact
from diffx.compare.published import marks
from diffx.compare.read import plain_values
from diffx.compare.study import ENOUGH, Outcome, Result, Study, beyond_spread, spaces
from diffx.compare.target import least_chance

CAPTION_SETTINGS = ("batch_size", "ema_decay")
CLASSES = ("sampler", "guidance")  # named by a class path, of which the last part is enough


def caption(study: Study) -> str:
    """What stands under a figure: how to read it, and on what the comparison rests."""
    several = any(len(method.runs) > 1 for method in study.methods)
    parts = ["Line: mean over seeds, band: least to greatest." if several else "One seed per method."]
    if study.baseline is not None:
        worst, median = (" (its worst seed)", " (median over seeds)") if several else ("", "")
        parts.append(
            f"Dotted: what {study.baseline.label} ended with{worst}; rings and factors: {study.unit_name} to reach it, "
            f"against {study.baseline.label}{median}."
        )
    if any(result.floor is not None for result in study.results):
        parts.append("Real images: the same distance for held-out images.")
    if any(run.diverged for method in study.methods for run in method.runs):
        parts.append("Cross: the last evaluation of a seed that diverged.")
    if published(study):
        parts.append("Diamonds: published numbers, each under its own protocol.")
    return " ".join([*parts, basis(study)])


def basis(study: Study) -> str:
    """On what the comparison rests: cost, protocol, everything that differs beside the plugins, and kinship."""
    parts = [f"Cost: {study.cost_name} of the training loop, evaluation excluded."]
    if study.best_so_far:
        parts.append("Each curve shows the best value so far.")
    return " ".join([*parts, protocol(study), differences(study), *study.kinship, *study.busy, *mixed(study)])


def published(study: Study) -> list[str]:
    """The published numbers that stand in the picture, with their sources."""
    found = [mark for one in study.results for mark in marks(study.published, study.methods, one.metric, study.axis)]
    return [f"{mark.name} {mark.value:g} at {compact(mark.x)} {study.unit_name}: {mark.source}" for mark in found]


def protocol(study: Study) -> str:
    """What was held equal, from the first run: data and evaluation protocol, batch, EMA, device."""
    run = study.methods[0].runs[0]
    settings = {readable(name): value for name, value in plain_values(run.facts.get("protocol") or {})}
    settings |= {readable(name): run.config[name] for name in CAPTION_SETTINGS if name in run.config}
    device = run.facts.get("device") or {}
    settings |= {"device": f"{device.get('count', 1)} × {device.get('name') or device.get('kind', 'unknown')}"}
    settings |= {"precision": run.facts.get("precision")}
    listed = [f"{name} {shown(value).rsplit('.', 1)[-1] if name in CLASSES else shown(value)}"
              for name, value in settings.items() if value is not None]  # fmt: skip
    name = f"Protocol {study.protocol}" if study.protocol else "Protocol"
    return f"{name}: {', '.join(listed)}."


def readable(name: str) -> str:
    """`sampler._target_` as sampler, `seed` of the protocol as sampling seed."""
    return {"seed": "sampling seed"}.get(name, name.removesuffix("._target_").replace(".", " ").replace("_", " "))


def differences(study: Study) -> str:
    if not study.differences:
        return "Nothing differs between the methods beside their plugins."
    return f"Differs beside the plugins: {'; '.join(map(str, study.differences))}."


def mixed(study: Study) -> list[str]:
    if not study.clashes:
        return []
    marked = f" Measured unlike the rest ({MARK.strip()}): {join(sorted(study.odd))}." if study.odd else ""
    return [f"MIXED, not a fair comparison: {' '.join(study.clashes)}{marked}"]


def paragraph(study: Study) -> str:
    """The conclusion, then one part per metric, then what limits it."""
    baseline = study.baseline
    if baseline is None:
        return "There is no run without plugins to compare with, so nothing is said about gains."
    others = [method for method in study.methods if method.label != baseline.label]
    if not others:
        return f"Only {baseline.label} was run: there is nothing to compare it with."
    parts = [verdict(study, result, baseline, others) for result in study.results]
    said = [conclusion(study, baseline, others), *parts, disagreement(study, others), *trust(study, baseline, others)]
    return " ".join(part for part in said if part)


def conclusion(study: Study, baseline: Method, others: Sequence[Method]) -> str:
    """Who beats the baseline whichever feature space is asked, in one sentence."""
    calls = {
        method.label: [call(result.outcomes[method.label], method, baseline) for result in study.results]
        for method in others
    }
    where = everywhere(study)
    if all(result.outcomes[method.label].ratio is None for result in study.results for method in others):
        return "No method was measured at a cost at which the baseline was too, so none is compared at equal cost."
    winners = [label for label, said in calls.items() if set(said) == {"better"}]
    if winners:
        return f"At equal cost {join(winners)} beat{'s' if len(winners) == 1 else ''} {baseline.label} {where}."
    if any(set(said) <= {"better", "untold better"} for said in calls.values()):
        return f"With so few seeds no method can be said to beat {baseline.label}."
    return f"At equal cost no method beats {baseline.label} {where}."


def everywhere(study: Study) -> str:
    """In how many feature spaces the study asked."""
    count = len(spaces(study.methods, [result.metric for result in study.results]))
    if count == 1:
        return "in the one feature space measured"
    return "in both feature spaces" if count == 2 else f"in all {count} feature spaces"


def verdict(study: Study, result: Result, baseline: Method, others: Sequence[Method]) -> str:
    """One metric: who is better than the baseline at equal cost, by how much, and whether seeds could explain it."""
    head = f"{title(result.metric)} after {compact(result.equal_cost)} {study.unit_name} each: "
    compared = [method for method in others if result.outcomes[method.label].ratio is not None]
    if not compared:
        return head + "no method can be compared with the baseline there."
    calls = {method.label: call(result.outcomes[method.label], method, baseline) for method in compared}
    base = result.outcomes[baseline.label].equal
    start = f"{baseline.label} has {base.mean:.3g}" if base else baseline.label
    better = [label for label, said in calls.items() if said == "better"]
    maybe = [label for label, said in calls.items() if said == "untold better"]
    parts = [start, *clauses(result, calls)]
    if not better and not maybe:
        parts.append(f"so no method beats {baseline.label} here")
    return head + "; ".join(parts) + "." + reached(result, baseline, [m for m in compared if m.label in better])


def call(outcome: Outcome, method: Method, baseline: Method) -> str:
    """`better` or `worse` when the seeds allow to say so, else `within` their spread or `untold` with too few seeds."""
    said = beyond_spread(outcome, seeds_behind(outcome, baseline, method))
    ratio = outcome.ratio or 1.0
    if said is None:
        return "untold better" if ratio > 1 else "untold worse"
    if not said:
        return "within"
    return "better" if ratio > 1 else "worse"


def seeds_behind(outcome: Outcome, baseline: Method, method: Method) -> tuple[int, int]:
    return len(baseline.runs), outcome.equal.count if outcome.equal else len(method.runs)


def clauses(result: Result, calls: dict[str, str]) -> list[str]:
    endings = {
        "better": "is better by more than the seeds' spread",
        "worse": "is worse by more than the seeds' spread",
        "within": "cannot be told from it: the difference is within the seeds' spread",
        "untold better": "is lower, but too few seeds were run to tell this from chance",
        "untold worse": "is not lower",
    }
    found = []
    for said, ending in endings.items():
        labels = [label for label, one in calls.items() if one == said]
        if labels:
            listed = [f"{label} ({result.outcomes[label].equal.mean:.3g})" for label in labels]  # type: ignore[union-attr]
            found.append(f"{join(listed)} {ending if len(labels) == 1 else plural(ending)}")
    return found


def plural(ending: str) -> str:
    return f"are{ending[2:]}" if ending.startswith("is ") else ending


def reached(result: Result, baseline: Method, better: Sequence[Method]) -> str:
    """How much sooner the better methods reached the baseline's final value."""
    gains = [(method.label, result.outcomes[method.label].speedups[result.goal]) for method in better]
    listed = [f"{bounded(gain.bound)}{gain.ratio:.2g} times sooner by {label}" for label, gain in gains if gain]
    return f" What {baseline.label} ended with was reached {join(listed)}." if listed else ""


def bounded(bound: str) -> str:
    return {"=": "", ">": "more than ", "<": "less than "}[bound]


def disagreement(study: Study, others: Sequence[Method]) -> str:
    """Methods that one feature space ranks above the baseline and another below: the gain depends on the ruler."""
    split = []
    for method in others:
        ratios = [result.outcomes[method.label].ratio for result in study.results]
        known = [ratio for ratio in ratios if ratio is not None]
        if known and min(known) < 1 < max(known):
            split.append(method.label)
    if not split:
        return ""
    return f"The feature spaces disagree about {join(split)}: lower than the baseline in one, not in another."


def trust(study: Study, baseline: Method, others: Sequence[Method]) -> list[str]:
    """How far the seeds carry, and whose seeds were lost."""
    said = [
        f"{sum(run.diverged for run in method.runs)} of {len(method.runs)} seeds of {method.label} diverged: its "
        "values are those of the others, which flatters it."
        for method in (baseline, *others)
        if any(run.diverged for run in method.runs)
    ]
    counts = [len(method.runs) for method in (baseline, *others)]
    least = max(least_chance(len(baseline.runs), len(method.runs)) for method in others)
    if min(counts) == 1:
        lone = [method.label for method in (baseline, *others) if len(method.runs) == 1]
        who = "every method" if len(lone) == len(counts) else join(lone)
        said.append(f"One seed cannot tell a difference from chance: {who} ran once. Three seeds each can begin to.")
    elif least > ENOUGH + 1e-9:
        said.append(
            f"With {min(counts)} seeds, chance alone orders them perfectly in 1 of {1 / least:.0f} cases: run three."
        )
    else:
        said.append(
            "A difference counts as more than the seeds' spread when at most 1 in "
            f"{1 / ENOUGH:.0f} random splits of the seeds gives one as large; with {len(others)} compared, expect such "
            "luck now and then."
        )
    return said
