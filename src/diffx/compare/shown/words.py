"""What the runs show, in a few plain sentences; and the caption that has to stand under every picture."""

from collections.abc import Sequence

from diffx.compare.card import MARK
from diffx.compare.cost import RULES
from diffx.compare.design import Response, find_responses
from diffx.compare.plain import join, write_number, write_value
from diffx.compare.runs.method import Method, name_together
from diffx.compare.runs.metric import name_metric
from diffx.compare.runs.read import list_leaves
from diffx.compare.seeds import ENOUGH, find_least_chance
from diffx.compare.shown.forecast import write_forecast
from diffx.compare.shown.published import place_published
from diffx.compare.study import Outcome, Result, Study, find_spaces, measure_fall

CAPTION_SETTINGS = ("batch_size", "ema_decay")
CLASSES = ("sampler", "guidance")  # named by a class path, of which the last part is enough
STEEP = 1.5  # a curve that falls so many times in a doubling has not flattened
ENDINGS = {
    "better": ("is", "better by more than the seeds' spread"),
    "worse": ("is", "worse by more than the seeds' spread"),
    "within": ("cannot", "be told from it: the difference is within the seeds' spread"),
    "untold better": ("is", "lower, but too few seeds were run to tell this from chance"),
    "untold worse": ("is", "not lower, but too few seeds were run to tell this from chance"),
}


def write_caption(study: Study) -> str:
    """What stands under a picture: how to read it, and on what the comparison rests."""
    several = any(len(method.runs) > 1 for method in study.methods)
    parts = [
        "Line: mean over seeds, band: least to greatest."
        if several
        else "One seed per method: no order of the lines can be told from chance."
    ]
    if study.baseline is not None:
        worst, median = (" (its worst seed)", " (median over seeds)") if several else ("", "")
        parts.append(
            f"Dotted: what {study.baseline.label} ended with{worst}; rings and factors: {study.unit_name} to reach it, "
            f"against {study.baseline.label}{median}."
        )
    if any(outcome.crossings for result in study.results for outcome in result.outcomes.values()):
        parts.append("Square: a line crosses the baseline's.")
    if any(result.floor is not None for result in study.results):
        parts.append("Real images: the same distance for held-out images.")
    if any(method.diverged for method in study.methods):
        parts.append("Cross: the last evaluation of a seed that diverged.")
    if list_published(study):
        parts.append("Diamonds: published numbers, each under its own protocol.")
    return " ".join([*parts, *count_diverged(study), describe_basis(study)])


def write_answer_caption(study: Study) -> str:
    """What stands under the picture of the answer."""
    base = study.baseline.label if study.baseline else ""
    return (
        f"{study.unit_name} that each method needs to reach what every seed of {base} ended with: the median seed, and "
        f"the 95 % interval of its speed-up over {base} (dashed). Arrowhead: not reached, or met before any evaluation."
    )


def write_forecast_caption(study: Study) -> str:
    """What stands under the picture of forecasts."""
    return (
        f"Lines and bands: what was measured. Fans: what each method would be up to {write_number(study.horizon)} "
        f"{study.cost_name}, 50 % and 95 % of the draws of a saturating power law, bootstrapped over seeds and widened "
        "by what it misses of these runs' own later evaluations: a forecast, not a measurement. "
        f"{describe_basis(study)}"
    )


def describe_basis(study: Study) -> str:
    """On what the comparison rests: cost, protocol, everything that differs beside the plugins, and cautions."""
    parts = [f"Cost: {study.cost_name} of the training loop, evaluation excluded; {RULES[study.cost_rule]}."]
    if study.best_so_far:
        parts.append("Each curve shows the best value so far.")
    return " ".join([*parts, describe_protocol(study), list_differences(study), *study.cautions, *say_mixed(study)])


def list_published(study: Study) -> list[str]:
    """The published numbers that stand in the picture, with their sources."""
    found = [mark for one in study.results for mark in place_published(study, one.metric)]
    return [f"{mark.name} {mark.value:g} at {write_number(mark.x)} {study.unit_name}: {mark.source}" for mark in found]


def describe_protocol(study: Study) -> str:
    """What was held equal, from the first run: data and evaluation protocol, batch, EMA, device."""
    run = study.methods[0].runs[0]
    settings = {name_setting(name): value for name, value in list_leaves(run.facts.get("protocol") or {})}
    settings |= {name_setting(name): run.config[name] for name in CAPTION_SETTINGS if name in run.config}
    device = run.facts.get("device") or {}
    settings |= {"device": f"{device.get('count', 1)} × {device.get('name') or device.get('kind', 'unknown')}"}
    settings |= {"precision": run.facts.get("precision")}
    shown = {name: write_value(value) for name, value in settings.items() if value is not None}
    listed = [f"{name} {text.rsplit('.', 1)[-1] if name in CLASSES else text}" for name, text in shown.items()]
    name = f"Protocol {study.protocol}" if study.protocol else "Protocol"
    return f"{name}: {', '.join(listed)}."


def name_setting(name: str) -> str:
    """`sampler._target_` as sampler, `seed` of the protocol as sampling seed."""
    return {"seed": "sampling seed"}.get(name, name.removesuffix("._target_").replace(".", " ").replace("_", " "))


def list_differences(study: Study) -> str:
    if study.differences:
        return f"Differs beside the plugins: {'; '.join(map(str, study.differences))}."
    return f"{say_nothing_differs(study)}."


def say_nothing_differs(study: Study) -> str:
    """What an empty list of differences means: nothing, unless the settings were not kept."""
    if any(run.source.config is None for method in study.methods for run in method.runs):
        return "Settings were not kept beside the runs; in what their records say nothing differs beside the plugins"
    return "Nothing differs between the methods beside their plugins"


def say_mixed(study: Study) -> list[str]:
    if not study.clashes:
        return []
    marked = f" Measured unlike the rest ({MARK.strip()}): {join(sorted(study.odd))}." if study.odd else ""
    return [f"MIXED, not a fair comparison: {' '.join(study.clashes)}{marked}"]


def write_card(study: Study) -> list[str]:
    """The fair-comparison card: what differs beside the plugins, line by line, how cost is counted, and cautions."""
    lines = [str(difference) for difference in study.differences] or [say_nothing_differs(study)]
    rule = f"cost: {study.cost_rule}, {RULES[study.cost_rule]} (rule {study.rule_hash})"
    return [*lines, rule, *study.cautions, *say_mixed(study)]


def write_verdict(study: Study) -> str:
    """The answer in one sentence, and all that it rests on."""
    return " ".join(part for part in (write_answer(study), write_reasons(study)) if part)


def write_answer(study: Study) -> str:
    """Who beats the baseline, in one sentence."""
    if study.baseline is None:
        return "There is no run without plugins to compare with, so nothing is said about gains."
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


def describe_response(one: Response, study: Study) -> str:
    """What a sweep shows: its best value, its worst, and the region as good as the best."""
    means = [value.mean for value in one.values]
    best, worst = means.index(min(means)), means.index(max(means))
    names = [name.split(".")[-1] for name in one.names]
    at = [
        " ".join(f"{name} {number:g}" for name, number in zip(names, one.points[p], strict=True)) for p in (best, worst)
    ]
    few = max(value.count for value in one.values) < 2
    flat = "no value can be told from another" if len(one.flat) == len(means) else f"as good: {one.describe_flat()}"
    return (
        f"Sweep of {one.plugins} in {name_metric(one.metric)} after {write_number(one.equal_cost)} {study.unit_name}: "
        f"{means[best]:.3g} at {at[0]} to {means[worst]:.3g} at {at[1]}; {flat}"
        + (" (one seed a value: chance is not excluded)." if few else ".")
    )


def conclude(study: Study, baseline: Method) -> str:
    """Who beats the baseline whichever feature space is asked, in one sentence."""
    calls = {
        method.label: [call_difference(result.outcomes[method.label], method, baseline) for result in study.results]
        for method in study.others
    }
    where = count_spaces(study)
    if all(result.outcomes[method.label].ratio is None for result in study.results for method in study.others):
        return "No method was measured at a cost at which the baseline was too, so none is compared at equal cost."
    winners = [label for label, said in calls.items() if set(said) == {"better"}]
    if winners:
        return f"At equal cost {join(winners)} beat{'s' if len(winners) == 1 else ''} {baseline.label} {where}."
    if any(set(said) <= {"better", "untold better"} for said in calls.values()):
        return f"With so few seeds no method can be said to beat {baseline.label}."
    return f"At equal cost no method beats {baseline.label} {where}."


def count_spaces(study: Study) -> str:
    """In how many feature spaces the study asked."""
    count = len(find_spaces(study.methods, [result.metric for result in study.results]))
    if count == 1:
        return "in the one feature space measured"
    return "in both feature spaces" if count == 2 else f"in all {count} feature spaces"


def say_cost(study: Study, result: Result) -> str:
    return f"{write_number(result.equal_cost)} {study.unit_name} each"


def describe_metric(study: Study, result: Result, baseline: Method) -> str:
    """One metric: who is better than the baseline at equal cost, by how much, for which budgets, and how surely."""
    head = f"{name_metric(result.metric)} after {say_cost(study, result)}: "
    compared = [method for method in study.others if result.outcomes[method.label].ratio is not None]
    if not compared:
        return head + "no method can be compared with the baseline there."
    calls = {method.label: call_difference(result.outcomes[method.label], method, baseline) for method in compared}
    base = result.outcomes[baseline.label].equal
    parts = [f"{baseline.label} has {base.mean:.3g}" if base else baseline.label, *list_calls(result, calls)]
    if not {"better", "untold better"} & set(calls.values()):
        parts.append(f"so no method beats {baseline.label} here")
    better = [label for label, said in calls.items() if said == "better"]
    said = [head + "; ".join(parts) + ".", say_sooner(result, baseline, better), say_since(study, result, better)]
    return " ".join(part for part in said if part)


def call_difference(outcome: Outcome, method: Method, baseline: Method) -> str:
    """`better` or `worse` when the seeds allow to say so, else `within` their spread or `untold` with too few seeds."""
    ratio = outcome.ratio or 1.0
    if outcome.chance is None or find_least_chance(len(baseline.runs), len(method.runs)) > ENOUGH + 1e-9:
        return "untold better" if ratio > 1 else "untold worse"
    if outcome.chance > ENOUGH + 1e-9:
        return "within"
    return "better" if ratio > 1 else "worse"


def list_calls(result: Result, calls: dict[str, str]) -> list[str]:
    """A clause for every kind of call, with the methods and their values."""
    found = []
    for kind, (verb, ending) in ENDINGS.items():
        equal = {label: result.outcomes[label].equal for label, said in calls.items() if said == kind}
        listed = [f"{label} ({one.mean:.3g})" for label, one in equal.items() if one]
        if listed:
            several = len(listed) > 1 and verb == "is"
            found.append(f"{join(listed)} {'are' if several else verb} {ending}")
    return found


def say_sooner(result: Result, baseline: Method, better: Sequence[str]) -> str:
    """How much sooner the better methods reached the baseline's final value."""
    gains = [(label, result.outcomes[label].speedups[result.goal]) for label in better]
    bounds = {"=": "", ">": "more than ", "<": "less than "}
    listed = [f"{bounds[gain.bound]}{gain.ratio:.3g} times sooner by {label}" for label, gain in gains if gain]
    return f"What {baseline.label} ended with was reached {join(listed)}." if listed else ""


def say_since(study: Study, result: Result, better: Sequence[str]) -> str:
    """From which budget on the order of the lines is what it is at equal cost."""
    assert study.baseline is not None
    turned: dict[str, list[str]] = {}
    for label, one in result.outcomes.items():
        seen = [crossing for crossing in one.crossings if crossing.x <= result.equal_cost]
        if seen:
            side = "below" if seen[-1].below else "above"
            turned.setdefault(f"{side} {study.baseline.label} only from {write_number(seen[-1].x)} on", []).append(
                label
            )
    crossed = {label for labels in turned.values() for label in labels}
    always = [label for label in better if label not in crossed]
    turned |= {f"below {study.baseline.label} at every budget measured": always} if always else {}
    said = [
        f"{name_together(study.methods, labels)} {'is' if len(labels) == 1 else 'are'} {where}"
        for where, labels in turned.items()
    ]
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
    return [
        f"{method.diverged} of {len(method.runs)} seeds of {method.label} diverged: "
        + (
            "its values are those of the others, which flatters it, and later targets count as not reached."
            if method.diverged < len(method.runs)
            else "later targets count as not reached."
        )
        for method in study.methods
        if method.diverged
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
