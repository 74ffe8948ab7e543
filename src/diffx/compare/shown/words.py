"""What the runs show, in a few plain sentences."""

from collections.abc import Sequence

from diffx.compare.design import Response, find_responses
from diffx.compare.shown.forecast import write_forecast
from diffx.compare.study import Result, Study, find_spaces, measure_fall
from diffx.curves.method import Method, name_together
from diffx.curves.metric import name_metric
from diffx.curves.seeds import ENOUGH, find_least_chance
from diffx.plain import group, join, write_number

STEEP = 1.5  # a curve that falls so many times in a doubling has not flattened
ENDINGS = {
    "better": ("is", "better by more than the seeds' spread"),
    "worse": ("is", "worse by more than the seeds' spread"),
    "within": ("cannot", "be told from it: the difference is within the seeds' spread"),
    "untold better": ("is", "lower, but too few seeds were run to tell this from chance"),
    "untold worse": ("is", "not lower, but too few seeds were run to tell this from chance"),
}


def write_verdict(study: Study) -> str:
    """The answer in one sentence, and all that it rests on."""
    return " ".join(part for part in (write_answer(study), write_reasons(study)) if part)


def write_answer(study: Study) -> str:
    """Who beats the baseline, in one sentence."""
    if study.baseline is None:
        swept = [say_flat(one) for one in find_responses(study)]
        limit = "There is no run without plugins to compare with, so nothing is said about gains."
        return " ".join([*swept, f"{limit[:-1]}, and nothing else can be said." if swept else limit])
    if not study.others:
        return f"Only {study.baseline.label} was run: there is nothing to compare it with."
    return conclude(study, study.baseline)


def write_reasons(study: Study) -> str:
    """One part per metric, then what limits the answer."""
    baseline = study.baseline
    if baseline is None:
        swept = [describe_response(one, study) for one in find_responses(study)]
        return " ".join([*(swept or (rank(one, study) for one in study.results)), *count_diverged(study)])
    if not study.others:
        return " ".join(count_diverged(study))
    parts = [describe_metric(study, result, baseline) for result in study.results]
    ahead = [write_forecast(study, result) for result in study.results] if study.forecasts else []
    told = [*parts, name_disagreement(study), limit_budget(study), *ahead]
    return " ".join(part for part in [*told, *count_diverged(study), limit_trust(study, baseline)] if part)


def rank(result: Result, study: Study) -> str:
    """Without baseline or sweep: the methods from the lowest to the highest."""
    known = {label: one.equal.mean for label, one in result.outcomes.items() if one.equal}
    if not known:
        return ""
    listed = [f"{label} ({known[label]:.3g})" for label in sorted(known, key=known.__getitem__)]
    return f"{name_metric(result.metric)} after {say_cost(study, result)}, from the lowest: {', '.join(listed)}."


def say_flat(one: Response) -> str:
    """Where a sweep is flat, and whether that region ends within it."""
    head = f"In {name_metric(one.metric)} the sweep of {one.plugins} over {join(one.swept)} "
    few = " (one seed a value, so chance is not excluded)" if one.few else ""
    if len(one.flat) == len(one.points):
        return f"{head}is flat: no value can be told from another{few}."
    edges = []
    for name, every in zip(one.swept, zip(*one.points, strict=True), strict=True):
        inside = [every[place] for place in one.flat]
        edges += [f"{name} {end(every):g}" for end in (min, max) if end(inside) == end(every)]
    beyond = f"; it reaches the edge of the sweep ({', '.join(edges)}), beyond which nothing was run" if edges else ""
    return f"{head}is flat at {one.describe_flat()}{few}{beyond}."


def describe_response(one: Response, study: Study) -> str:
    """What a sweep shows: its best value, its worst, and the region as good as the best."""
    means = [value.mean for value in one.values]
    best, worst = means.index(min(means)), means.index(max(means))
    at = [" ".join(f"{name} {number:g}" for name, number in zip(one.swept, one.points[place], strict=True))
          for place in (best, worst)]  # fmt: skip
    flat = "no value can be told from another" if len(one.flat) == len(means) else f"as good: {one.describe_flat()}"
    return (
        f"Sweep of {one.plugins} in {name_metric(one.metric)} after {write_number(one.equal_cost)} {study.unit_name}: "
        f"{means[best]:.3g} at {at[0]} to {means[worst]:.3g} at {at[1]}; {flat}"
        + (" (one seed a value: chance is not excluded)." if one.few else ".")
    )


def conclude(study: Study, baseline: Method) -> str:
    """Who beats the baseline whichever feature space is asked, in one sentence."""
    calls = {one.label: {call_difference(result, one, baseline) for result in study.results} for one in study.others}
    where = count_spaces(study)
    if all(result.outcomes[label].ratio is None for result in study.results for label in calls):
        return "No method was measured at a cost at which the baseline was too, so none is compared at equal cost."
    winners = [label for label, said in calls.items() if said == {"better"}]
    if winners:
        return f"At equal cost {join(winners)} beat{'s' if len(winners) == 1 else ''} {baseline.label} {where}."
    if any(said <= {"better", "untold better"} for said in calls.values()):
        return f"With so few seeds no method can be said to beat {baseline.label}."
    return f"At equal cost no method beats {baseline.label} {where}."


def count_spaces(study: Study) -> str:
    """In how many feature spaces the study asked."""
    count = len(find_spaces(study))
    few = {1: "in the one feature space measured", 2: "in both feature spaces"}
    return few.get(count, f"in all {count} feature spaces")


def say_cost(study: Study, result: Result) -> str:
    return f"{write_number(result.equal_cost)} {study.unit_name} each"


def describe_metric(study: Study, result: Result, baseline: Method) -> str:
    """One metric: who is better than the baseline at equal cost, by how much, for which budgets, and how surely."""
    head = f"{name_metric(result.metric)} after {say_cost(study, result)}: "
    compared = [method for method in study.others if result.outcomes[method.label].ratio is not None]
    if not compared:
        return head + "no method can be compared with the baseline there."
    calls = {method.label: call_difference(result, method, baseline) for method in compared}
    base = result.outcomes[baseline.label].equal
    parts = [f"{baseline.label} has {base.mean:.3g}" if base else baseline.label, *list_calls(result, calls)]
    if not {"better", "untold better"} & set(calls.values()):
        parts.append(f"so no method beats {baseline.label} here")
    better = [label for label, said in calls.items() if said == "better"]
    said = [head + "; ".join(parts) + ".", say_sooner(result, baseline, better), say_since(study, result, better)]
    return " ".join(part for part in said if part)


def call_difference(result: Result, method: Method, baseline: Method) -> str:
    """`better` or `worse` when the seeds allow to say so, else `within` their spread or `untold` with too few seeds."""
    outcome = result.outcomes[method.label]
    side = "better" if (outcome.ratio or 1.0) > 1 else "worse"
    if outcome.chance is None or find_least_chance(len(baseline.runs), len(method.runs)) > ENOUGH + 1e-9:
        return f"untold {side}"
    return "within" if outcome.chance > ENOUGH + 1e-9 else side


def list_calls(result: Result, calls: dict[str, str]) -> list[str]:
    """A clause for every kind of call, with the methods and their values."""
    found = []
    for kind, (verb, ending) in ENDINGS.items():
        listed = [f"{label} ({one.mean:.3g})" for label, said in calls.items()
                  if said == kind and (one := result.outcomes[label].equal)]  # fmt: skip
        verb = "are" if len(listed) > 1 and verb == "is" else verb
        found += [f"{join(listed)} {verb} {ending}"] if listed else []
    return found


def say_sooner(result: Result, baseline: Method, better: Sequence[str]) -> str:
    """How much sooner the better methods reached the baseline's final value."""
    gains = [(label, result.at_goal(label)[1]) for label in better]
    bounds = {"=": "", ">": "more than ", "<": "less than "}
    listed = [f"{bounds[gain.bound]}{gain.ratio:.3g} times sooner by {label}" for label, gain in gains if gain]
    return f"What {baseline.label} ended with was reached {join(listed)}." if listed else ""


def say_since(study: Study, result: Result, better: Sequence[str]) -> str:
    """From which budget on the order of the lines is what it is at equal cost."""
    assert study.baseline is not None
    base, turned = study.baseline.label, {}
    for label, one in result.outcomes.items():
        for last in [crossing for crossing in one.crossings if crossing.x <= result.equal_cost][-1:]:
            turned[label] = f"{'below' if last.below else 'above'} {base} only from {write_number(last.x)} on"
    turned |= {label: f"below {base} at every budget measured" for label in better if label not in turned}
    said = [f"{name_together(study.methods, labels)} {'is' if len(labels) == 1 else 'are'} {where}"
            for where, labels in group(turned.items()).items()]  # fmt: skip
    return f"Of the lines, {'; '.join(said)}." if said else ""


def limit_budget(study: Study) -> str:
    """Up to which budget all of this holds, and whether the curves have flattened there."""
    assert study.baseline is not None
    costs = dict.fromkeys(say_cost(study, result) for result in study.results)
    said = f"This holds for budgets up to {' or '.join(costs)}, not beyond."
    falls = [fall for one in study.results if (fall := measure_fall(study, one)) is not None]
    if falls and max(falls) > STEEP:
        said += (
            f" {study.baseline.label} still fell {max(falls):.2g}-fold in the last doubling, where a cheaper step is "
            "worth most: the order need not last."
        )
    return said


def name_disagreement(study: Study) -> str:
    """Methods that one feature space ranks above the baseline and another below: the gain depends on the ruler."""
    split = []
    for method in study.others:
        ratios = [result.outcomes[method.label].ratio for result in study.results]
        known = [ratio for ratio in ratios if ratio is not None]
        if known and min(known) < 1 < max(known):
            split.append(method.label)
    if not split:
        return ""
    return f"The feature spaces disagree about {join(split)}: lower than the baseline in one, not in another."


def count_diverged(study: Study) -> list[str]:
    """A sentence on every method that lost seeds."""
    others = "its values are those of the others, which flatters it, and "
    return [
        f"{one.diverged} of {len(one.runs)} seeds of {one.label} diverged: "
        f"{others if one.diverged < len(one.runs) else ''}later targets count as not reached."
        for one in study.methods
        if one.diverged
    ]


def limit_trust(study: Study, baseline: Method) -> str:
    """How far the seeds carry."""
    every = (baseline, *study.others)
    counts = [len(method.runs) for method in every]
    least = max(find_least_chance(len(baseline.runs), len(method.runs)) for method in study.others)
    if min(counts) == 1:
        lone = [method.label for method in every if len(method.runs) == 1]
        who = "every method" if len(lone) == len(counts) else join(lone)
        return f"One seed cannot tell a difference from chance: {who} ran once. Three seeds each can begin to."
    if least > ENOUGH + 1e-9:
        return f"With {min(counts)} seeds, chance alone orders them perfectly in 1 of {1 / least:.0f} cases: run three."
    return (
        f"A difference counts as more than the seeds' spread when at most 1 in {1 / ENOUGH:.0f} random splits of the "
        f"seeds gives one as large; with {len(study.others)} compared, expect such luck now and then."
    )
