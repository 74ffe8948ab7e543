"""What stands under a picture: how to read what is drawn in it, and on what the comparison rests; and the card."""

from diffx.compare.card import MARK
from diffx.compare.cost import RULES
from diffx.compare.shown.published import place_published
from diffx.compare.shown.words import count_diverged
from diffx.compare.study import Study
from diffx.curves.metric import name_metric
from diffx.curves.read import list_leaves
from diffx.plain import join, write_number, write_value

LENGTHS = ("none", "short", "full")  # of a caption: nothing, how to read the picture, and on what it rests too
CAPTION_SETTINGS = ("batch_size", "ema_decay")
CLASSES = ("sampler", "guidance")  # named by a class path, of which the last part is enough


def write_caption(study: Study, length: str = "full") -> str:
    """What stands under a picture of all the study's metrics, one of LENGTHS."""
    reading = dict.fromkeys(part for result in study.results for part in read_panel(study, result.metric))
    return {"none": "", "short": " ".join(reading), "full": " ".join([*reading, describe_basis(study)])}[length]


def read_panel(study: Study, metric: str) -> list[str]:
    """How to read the panel of one metric, a sentence for each kind of mark that is drawn there."""
    several = any(len(method.runs) > 1 for method in study.methods)
    parts = [
        "Line: mean over seeds, band: least to greatest, dot: where a seed was evaluated."
        if several
        else "One seed per method: no order of the lines can be told from chance. Dot: an evaluation."
    ]
    result = study.result(metric)
    if result is not None and study.baseline is not None:
        base, outcomes = study.baseline.label, result.outcomes
        worst, median = (" (its worst seed)", " (median over seeds)") if several else ("", "")
        met = [label for label in outcomes if label != base and result.at_goal(label)[0].bound != ">"]
        rings = f"; rings and factors: {study.unit_name} to reach it, against {base}{median}" if met else ""
        parts.append(f"Dotted: what {base} ended with{worst}{rings}.")
        if any(outcome.crossings for outcome in outcomes.values()):
            parts.append("Square: a line crosses the baseline's.")
    if (floor := study.floor(metric)) is not None:
        parts.append(f"Held-out real images score {write_number(floor)} in {name_metric(metric)}.")
    if any(method.diverged for method in study.methods):
        parts.append("Cross: the last evaluation of a seed that diverged.")
    if place_published(study, metric):
        parts.append("Diamonds: published numbers, each under its own protocol.")
    return [*parts, *count_diverged(study)]


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
    kept = {name: run.config[name] for name in CAPTION_SETTINGS if name in run.config}
    settings = {name_setting(name): value for name, value in (*list_leaves(run.facts["protocol"]), *kept.items())}
    settings["device"] = f"{run.facts['device'].get('count', 1)} × {run.device or 'unknown'}"
    settings["precision"] = run.facts.get("precision")
    shown = {name: write_value(value) for name, value in settings.items() if value is not None}
    listed = [f"{name} {text.rsplit('.', 1)[-1] if name in CLASSES else text}" for name, text in shown.items()]
    name = f"Protocol {study.protocol}" if study.protocol else "Protocol"
    return f"{name}: {', '.join(listed)}."


def name_setting(name: str) -> str:
    """`sampler._target_` as sampler, `seed` of the protocol as sampling seed."""
    return {"seed": "sampling seed"}.get(name, name.removesuffix("._target_").replace(".", " ").replace("_", " "))


def list_differences(study: Study) -> str:
    listed = "; ".join(map(str, study.differences))
    return f"Differs beside the plugins: {listed}." if listed else f"{say_nothing_differs(study)}."


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
