"""The fair-comparison card: what differs between methods beside their plugins, and whom a metric flatters."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from diffx.compare.group import Method, shown
from diffx.compare.metric import distances, network_of, title
from diffx.compare.read import Run, plain_values
from diffx.errors import DiffxError

UNITS = {"gpu_hours": "GPU-hours", "cpu_hours": "CPU-hours"}
# How a run was made, from run.json: name on the card, and where to find it.
MADE = {
    "device": lambda run: device(run),
    "device count": lambda run: (run.facts.get("device") or {}).get("count"),
    "precision": lambda run: run.facts.get("precision"),
    "git commit": lambda run: str((run.facts.get("git") or {}).get("commit") or "unknown")[:10],
    "uncommitted changes": lambda run: (run.facts.get("git") or {}).get("dirty"),
}
SAME_FLOOR = 0.01  # relative: another machine's rounding moves a floor by less, another network by more
TIMED = 30.0  # seconds of training from which on the cost of a step is more than noise
BUSY = 0.1  # relative: seeds of one configuration on an idle machine differ by less
SEVERAL = 4  # more labels than this are not listed one by one
MARK = " †"  # after the label of a method that is measured unlike the baseline


@dataclass(frozen=True)
class Difference:
    """One setting that is not the same for all methods: its value by label."""

    name: str
    values: dict[str, str]

    def __str__(self) -> str:
        holders: dict[str, list[str]] = {}
        for label, value in self.values.items():
            holders.setdefault(value, []).append(label)
        usual = max(holders, key=lambda value: len(holders[value]))
        if len(holders) == 1 or len(holders[usual]) == 1:
            return f"{self.name}: " + ", ".join(f"{value} in {' and '.join(who)}" for value, who in holders.items())
        others = [f"{value} in {' and '.join(who)}" for value, who in holders.items() if value != usual]
        return f"{self.name}: " + ", ".join(others) + f", {usual} elsewhere"


def differences(methods: Sequence[Method]) -> list[Difference]:
    """Everything that differs beside the plugins: settings, seeds, device, precision, versions, commit, protocol."""
    columns: dict[str, dict[str, str]] = {}
    for method in methods:
        for name, value in described(method).items():
            columns.setdefault(name, {})[method.label] = value
    full = {name: {m.label: column.get(m.label, "–") for m in methods} for name, column in columns.items()}
    return merged([Difference(name, column) for name, column in full.items() if len(set(column.values())) > 1])


def described(method: Method) -> dict[str, str]:
    """All that the card compares, as text; several values within one method stand side by side."""
    seen: dict[str, dict[str, None]] = {}
    for run in method.runs:
        for name, value in one_run(run).items():
            seen.setdefault(name, {})[shown(value)] = None
    text = {name: " / ".join(values) for name, values in seen.items()}
    settings = {name: shown(value) for name, value in method.settings.items() if not name.startswith("plugins")}
    return {**settings, **text, "seeds": " ".join(map(str, method.seeds))}


def one_run(run: Run) -> dict[str, Any]:
    versions = {f"version of {name}": value for name, value in (run.facts.get("versions") or {}).items()}
    protocol = {f"protocol.{name}": value for name, value in plain_values(run.facts.get("protocol") or {})}
    offline = {f"offline {name}": value for name, value in plain_values(run.facts.get("offline") or {})}
    made = {name: find(run) for name, find in MADE.items()}
    facts = {**made, **versions, **protocol, **offline}
    return {name: value for name, value in facts.items() if value is not None}


def merged(found: Sequence[Difference]) -> list[Difference]:
    """Settings that differ in the same way share a line: one cause often shows in several places."""
    alike: dict[tuple[tuple[str, str], ...], list[str]] = {}
    for one in found:
        alike.setdefault(tuple(one.values.items()), []).append(one.name)
    return [Difference(", ".join(names), dict(values)) for values, names in alike.items()]


def device(run: Run) -> str | None:
    facts = run.facts.get("device") or {}
    return facts.get("name") or facts.get("kind")


def measure(run: Run) -> dict[str, str]:
    """What has to be the same for two runs to share an axis."""
    protocols = dict.fromkeys(point.protocol for point in run.points if point.protocol)
    last = str(run.facts.get("protocol_hash") or "")
    return {
        "cost unit": UNITS.get(run.unit, run.unit),
        "device": str(device(run) or ""),
        "protocol": " then ".join(protocols) or last,
    }


def check_measures(methods: Sequence[Method], mixed: bool) -> list[str]:
    """Sentences on what the runs measure differently. Raises DiffxError with them unless `mixed`."""
    sentences = [sentence for name in ("cost unit", "device", "protocol") for sentence in clash(methods, name)]
    sentences += changed_rulers(methods)
    if sentences and not mixed:
        raise DiffxError(
            " ".join(sentences)
            + " Compare runs that were measured alike, or add --mixed to draw them together, marked."
        )
    return sentences


def changed_rulers(methods: Sequence[Method]) -> list[str]:
    """Metrics in which the same real images score differently between runs: the features or the reference changed."""
    found: dict[str, dict[float, list[str]]] = {}
    for method in methods:
        for run in method.runs:
            for metric, value in floors(run).items():
                groups = found.setdefault(metric, {})
                alike = next((one for one in groups if math.isclose(one, value, rel_tol=SAME_FLOOR)), value)
                labels = groups.setdefault(alike, [])
                labels += [] if method.label in labels else [method.label]
    return [
        f"Real images score differently in {title(metric)}: "
        + ", ".join(f"{value:.3g} in {join(labels)}" for value, labels in groups.items())
        + ". Its feature network or reference changed between the runs."
        for metric, groups in found.items()
        if len(groups) > 1
    ]


def floors(run: Run) -> dict[str, float]:
    """What real images score in the run's distances."""
    known = (run.facts.get("reference") or {}).get("floor") or {}
    return {metric: known[metric] for metric in distances(known) if known[metric] is not None}


def clash(methods: Sequence[Method], name: str) -> list[str]:
    holders: dict[str, list[str]] = {}
    for method in methods:
        for value in dict.fromkeys(measure(run)[name] for run in method.runs):
            holders.setdefault(value, []).append(method.label)
    if len(holders) < 2 and not any(" then " in value for value in holders):
        return []
    listed = "; ".join(f"{value or 'unknown'} in {', '.join(labels)}" for value, labels in holders.items())
    sentence = f"Two {name}s on one axis: {listed}."
    if name == "protocol":
        said = [str(d) for d in differences(methods) if d.name.startswith("protocol.")]
        sentence = sentence if not said else f"{sentence} They differ in {'; '.join(said).replace('protocol.', '')}."
    return [sentence]


def odd_ones(methods: Sequence[Method], baseline: Method | None) -> set[str]:
    """Labels of the methods that were measured unlike the baseline (or unlike the first method)."""
    reference = (baseline or methods[0]).runs[0]
    return {method.label for method in methods if any(not measured_alike(run, reference) for run in method.runs)}


def measured_alike(one: Run, other: Run) -> bool:
    """Whether two runs can share an axis."""
    theirs = floors(other)
    same = all(math.isclose(value, theirs.get(name, value), rel_tol=SAME_FLOOR) for name, value in floors(one).items())
    return same and measure(one) == measure(other)


def busy(methods: Sequence[Method]) -> list[str]:
    """A sentence on the seeds whose steps cost more than their siblings': another process slowed them down."""
    found = []
    for method in methods:
        timed = [run for run in method.runs if run.points[-1].cost >= TIMED / 3600]
        steps = set.intersection(*({point.step for point in run.points} for run in timed)) if timed else set()
        rates = {run.seed: cost_per_step(run, max(steps, default=None)) for run in timed}
        excess = {seed: rate / min(rates.values()) - 1 for seed, rate in rates.items()}
        found += [f"{method.label} seed {seed} (+{more:.0%})" for seed, more in excess.items() if more > BUSY]
    if not found:
        return []
    return [
        f"Timed on a busy machine? Each step cost more than the fastest sibling's in {join(found)}: at equal cost "
        f"{'this seed is' if len(found) == 1 else 'these seeds are'} behind by that much for no fault of the method; "
        "against steps it does not show."
    ]


def cost_per_step(run: Run, step: int | None = None) -> float:
    """Device-hours of training per step, up to the evaluation at `step` or the last one."""
    point = next((point for point in run.points if point.step == step), run.points[-1])
    return point.cost / max(point.step, 1)


def kinship(methods: Sequence[Method], metrics: Sequence[str]) -> list[str]:
    """A sentence for every tie between an encoder that methods align to and the feature network of a metric."""
    ties: dict[tuple[str, str, str], tuple[dict[str, None], dict[str, None]]] = {}
    for method in methods:
        for encoder in method.facts.get("encoders") or []:
            for metric in metrics:
                network = network_of(metric, method.facts.get("feature_networks") or []) or {}
                tie = relation(encoder, network)
                if tie:
                    key = (str(encoder.get("name")), str(network.get("name")), tie)
                    shown_in, labels = ties.setdefault(key, ({}, {}))
                    shown_in[title(metric)] = None
                    labels[method.label] = None
    sentences = []
    for (encoder_name, network_name, tie), (where, who) in ties.items():
        verb, them = ("is", "it") if len(who) == 1 else ("are", "them")
        sentences.append(
            f"{together(methods, who)} {verb} aligned to {encoder_name}, which is {tie} {network_name}, the feature "
            f"network of {join(where)}: that distance may flatter {them}."
        )
    return sentences


def together(methods: Sequence[Method], labels: Iterable[str]) -> str:
    """Labels in a sentence; the many methods of a sweep by the plugins that they share."""
    named = list(labels)
    plugins = [set(method.plugins) for method in methods if method.label in named]
    shared = "+".join(
        name for name in next(m.plugins for m in methods if m.label in named) if all(name in p for p in plugins)
    )
    return f"the {len(named)} methods with {shared}" if len(named) > SEVERAL and shared else join(named)


def relation(encoder: dict[str, Any], network: dict[str, Any]) -> str:
    """The closest tie between an encoder and a feature network, in words; empty when there is none."""
    if encoder.get("name") and encoder.get("name") == network.get("name"):
        return "the same network as"
    if encoder.get("family") and encoder.get("family") == network.get("family"):
        return "of the same family as"
    if encoder.get("training") and encoder.get("training") == network.get("training"):
        return f"{encoder['training']} like"
    return ""


def join(names: Iterable[str]) -> str:
    *most, last = names
    return f"{', '.join(most)} and {last}" if most else last
