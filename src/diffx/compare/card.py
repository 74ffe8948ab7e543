"""The fair-comparison card: what differs between methods beside their plugins, and whom a metric flatters."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from diffx.curves.method import Method, name_together
from diffx.curves.metric import find_network, name_metric
from diffx.curves.read import Run, list_leaves
from diffx.errors import DiffxError
from diffx.plain import NONE, group, join, write_value
from diffx.run.distances import pick_distances

# How a run was made, from run.json: name on the card, and where to find it.
MADE: dict[str, Callable[[Run], Any]] = {
    "device": lambda run: run.device,
    "device count": lambda run: run.facts["device"].get("count"),
    "precision": lambda run: run.facts.get("precision"),
    "git commit": lambda run: str(run.facts["git"].get("commit") or "unknown")[:10],
    "uncommitted changes": lambda run: run.facts["git"].get("dirty"),
}
SAME_FLOOR = 0.01  # relative: another machine's rounding moves a floor by less, another network by more
MARK = " †"  # after the label of a method that is measured unlike the baseline


@dataclass(frozen=True)
class Difference:
    """One setting that is not the same for all methods: its value by label."""

    name: str
    values: dict[str, str]

    def __str__(self) -> str:
        holders = group(self.values.items())
        usual = max(holders, key=lambda value: len(holders[value]))
        said = {value: f"{value} in {' and '.join(who)}" for value, who in holders.items()}
        if len(holders) > 1 and len(holders[usual]) > 1:
            del said[usual]
            return f"{self.name}: {', '.join(said.values())}, {usual} elsewhere"
        return f"{self.name}: {', '.join(said.values())}"


def find_differences(methods: Sequence[Method]) -> list[Difference]:
    """Everything that differs beside the plugins: settings, seeds, device, precision, versions, commit, protocol."""
    described = {method.label: describe_method(method) for method in methods}
    names = dict.fromkeys(name for one in described.values() for name in one)
    columns = {name: {label: one.get(name, NONE) for label, one in described.items()} for name in names}
    return merge_alike([Difference(name, column) for name, column in columns.items() if len({*column.values()}) > 1])


def describe_method(method: Method) -> dict[str, str]:
    """All that the card compares, as text; several values within one method stand side by side."""
    seen: dict[str, dict[str, None]] = {}
    for run in method.runs:
        for name, value in describe_run(run).items():
            seen.setdefault(name, {})[write_value(value)] = None
    text = {name: " / ".join(values) for name, values in seen.items()}
    settings = {n: write_value(value) for n, value in method.settings.items() if not n.startswith("plugins")}
    return {**settings, **text, "seeds": " ".join(map(str, method.seeds))}


def describe_run(run: Run) -> dict[str, Any]:
    versions = {f"version of {name}": value for name, value in run.facts["versions"].items()}
    protocol = {f"protocol.{name}": value for name, value in list_leaves(run.facts["protocol"])}
    offline = {f"offline {name}": value for name, value in list_leaves(run.facts["offline"])}
    facts = {**{name: find(run) for name, find in MADE.items()}, **versions, **protocol, **offline}
    return {name: value for name, value in facts.items() if value is not None}


def merge_alike(found: Sequence[Difference]) -> list[Difference]:
    """Settings that differ in the same way share a line: one cause often shows in several places."""
    alike = group((one.name, tuple(one.values.items())) for one in found)
    return [Difference(", ".join(names), dict(values)) for values, names in alike.items()]


def describe_measure(run: Run) -> dict[str, str]:
    """What has to be the same for two runs to share an axis."""
    protocols = dict.fromkeys(point.protocol for point in run.points if point.protocol)
    last = str(run.facts.get("protocol_hash") or "")
    return {
        "cost unit": run.unit_name,
        "device": str(run.device or ""),
        "protocol": " then ".join(protocols) or last,
    }


def check_measures(methods: Sequence[Method], mixed: bool) -> list[str]:
    """Sentences on what the runs measure differently. Raises DiffxError with them unless `mixed`."""
    sentences = [sentence for name in ("cost unit", "device", "protocol") for sentence in find_clash(methods, name)]
    sentences += find_changed_rulers(methods)
    if sentences and not mixed:
        raise DiffxError(
            " ".join(sentences)
            + " Compare runs that were measured alike, or add --mixed to draw them together, marked."
        )
    return sentences


def find_changed_rulers(methods: Sequence[Method]) -> list[str]:
    """Metrics in which the same real images score differently between runs: the features or the reference changed."""
    found: dict[str, dict[float, dict[str, None]]] = {}
    for label, floors in ((method.label, run.floors) for method in methods for run in method.runs):
        for metric in pick_distances(floors):
            groups = found.setdefault(metric, {})
            alike = (one for one in groups if math.isclose(one, floors[metric], rel_tol=SAME_FLOOR))
            groups.setdefault(next(alike, floors[metric]), {})[label] = None
    return [
        f"Real images score differently in {name_metric(metric)}: "
        + ", ".join(f"{value:.3g} in {join(labels)}" for value, labels in groups.items())
        + ". Its feature network or reference changed between the runs."
        for metric, groups in found.items()
        if len(groups) > 1
    ]


def find_clash(methods: Sequence[Method], name: str) -> list[str]:
    """A sentence when one of the measures is not the same for all runs."""
    holders = group((method.label, value) for method in methods
                    for value in dict.fromkeys(describe_measure(run)[name] for run in method.runs))  # fmt: skip
    if len(holders) < 2 and not any(" then " in value for value in holders):
        return []
    listed = "; ".join(f"{value or 'unknown'} in {', '.join(labels)}" for value, labels in holders.items())
    sentence = f"Two {name}s on one axis: {listed}."
    if name == "protocol":
        said = [str(d) for d in find_differences(methods) if d.name.startswith("protocol.")]
        sentence = sentence if not said else f"{sentence} They differ in {'; '.join(said).replace('protocol.', '')}."
    return [sentence]


def find_odd(methods: Sequence[Method], baseline: Method | None) -> set[str]:
    """Labels of the methods that were measured unlike the baseline (or unlike the first method)."""
    reference = (baseline or methods[0]).runs[0]
    return {method.label for method in methods if any(not is_measured_alike(run, reference) for run in method.runs)}


def is_measured_alike(one: Run, other: Run) -> bool:
    """Whether two runs can share an axis."""
    shared = [name for name in pick_distances(one.floors) if name in other.floors]
    same = all(math.isclose(one.floors[name], other.floors[name], rel_tol=SAME_FLOOR) for name in shared)
    return same and describe_measure(one) == describe_measure(other)


def name_kinship(methods: Sequence[Method], metrics: Sequence[str]) -> list[str]:
    """A sentence for every tie between an encoder that methods align to and the feature network of a metric."""
    ties: dict[tuple[str, str, str], tuple[dict[str, None], dict[str, None]]] = {}
    for method in methods:
        for encoder in method.facts["encoders"]:
            for metric in metrics:
                network = find_network(metric, method.facts["feature_networks"]) or {}
                if tie := find_tie(encoder, network):
                    key = (str(encoder.get("name")), str(network.get("name")), tie)
                    shown_in, labels = ties.setdefault(key, ({}, {}))
                    shown_in[name_metric(metric)] = None
                    labels[method.label] = None
    sentences = []
    for (encoder_name, network_name, tie), (where, who) in ties.items():
        verb, them = ("is", "it") if len(who) == 1 else ("are", "them")
        sentences.append(
            f"{name_together(methods, who)} {verb} aligned to {encoder_name}, which is {tie} {network_name}, the "
            f"feature network of {join(where)}: that distance may flatter {them}."
        )
    return sentences


def find_tie(encoder: dict[str, Any], network: dict[str, Any]) -> str:
    """The closest tie between an encoder and a feature network, in words; empty when there is none."""
    ties = {
        "name": "the same network as",
        "family": "of the same family as",
        "training": f"{encoder.get('training')} like",
    }
    return next((tie for key, tie in ties.items() if encoder.get(key) and encoder[key] == network.get(key)), "")
