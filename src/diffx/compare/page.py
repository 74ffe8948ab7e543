"""The interactive page: one HTML file with its data, style and script inside, which opens offline."""

import json
from collections.abc import Sequence
from importlib.resources import files
from typing import Any

from diffx.compare import words
from diffx.compare.card import MARK
from diffx.compare.figure import factor, styles
from diffx.compare.group import Method, differing, shown
from diffx.compare.metric import distances, network_of, title
from diffx.compare.published import marks
from diffx.compare.read import AXES, Run
from diffx.compare.study import AXIS_NAMES, Study, along, floor_of
from diffx.compare.table import Table, interval

READING = (
    "Line: mean over seeds, band: least to greatest. Dotted: what the baseline ended with (its worst seed); rings: "
    "where methods meet it, and how much sooner. Dashed: real images; diamonds: published numbers, each under its own "
    "protocol."
)


def html(study: Study, tables: Sequence[Table], card: Sequence[str]) -> str:
    """The page. It loads nothing: style, script and data are inlined, and its content policy forbids the rest."""
    folder = files("diffx.compare")
    data = json.dumps(contents(study, tables, card), allow_nan=False).replace("<", "\\u003c")
    page = (folder / "page.html").read_text(encoding="utf-8")
    parts = {"/*STYLE*/": folder / "page.css", "/*SCRIPT*/": folder / "page.js"}
    for place, file in parts.items():
        page = page.replace(place, file.read_text(encoding="utf-8"))
    return page.replace("/*DATA*/", data)


def contents(study: Study, tables: Sequence[Table], card: Sequence[str]) -> dict[str, Any]:
    """All that the script draws, as plain data."""
    runs = [run for method in study.methods for run in method.runs]
    counted = [axis for axis in AXES if all(getattr(point, axis) > 0 for run in runs for point in run.points)]
    experiments = dict.fromkeys(method.runs[0].key[0] for method in study.methods)
    return {
        "title": f"Comparison: {', '.join(experiments)}",
        "verdict": words.paragraph(study),
        "caption": f"{READING} {words.basis(study)}",
        "axes": [{"key": axis, "label": AXIS_NAMES.get(axis, study.cost_name)} for axis in counted],
        "metrics": metrics(study, counted),
        "methods": methods(study),
        "tables": [vars(table) for table in tables],
        "card": list(card),
        "remarks": list(study.remarks),
    }


def metrics(study: Study, axes: Sequence[str]) -> list[dict[str, Any]]:
    """The compared distances first, then whatever else was measured."""
    measured = dict.fromkeys(
        name for method in study.methods for run in method.runs for point in run.points for name in point.values
    )
    results = {result.metric: result for result in study.results}
    networks = study.methods[0].facts.get("feature_networks") or []
    found = []
    for name in [*results, *(name for name in measured if name not in results)]:
        result = results.get(name)
        network = network_of(name, networks) if distances([name]) else None
        space = f"{network.get('training', '')} features of {network['name']} · " if network else ""
        found.append(
            {
                "key": name,
                "title": title(name) if distances([name]) else name,
                "subtitle": space + ("lower is better" if distances([name]) else "no distance to real images"),
                "distance": result is not None,
                "floor": floor_of(study.methods, name),
                "goal": result.targets[result.goal] if result and study.baseline else None,
                "rings": {axis: rings(along(study, axis), name) for axis in axes} if result and study.baseline else {},
                "marks": {axis: [vars(m) for m in marks(study.published, study.methods, name, axis)] for axis in axes},
            }
        )
    return found


def rings(study: Study, metric: str) -> list[dict[str, Any]]:
    """Where each method meets the baseline's final value, and its speed-up in words.

    A `bound` is a method whose first evaluation was beyond that value: it has no ring.
    """
    (result,) = (one for one in study.results if one.metric == metric)
    found = []
    for label, outcome in result.outcomes.items():
        met, gain = outcome.reaches[result.goal], outcome.speedups[result.goal]
        if met.bound != ">" and gain is not None:
            bound = "> " if met.bound == "<" else ""
            ring = {"label": label, "x": met.cost, "factor": f"{bound}{factor(gain)}", "bound": bool(bound)}
            found.append({**ring, "interval": interval(gain.interval)})
    return found


def methods(study: Study) -> list[dict[str, Any]]:
    """Methods with their look, the settings in which they differ, and the points of their runs."""
    varied = differing([method.settings for method in study.methods])
    looks = styles(study.methods, study.baseline)
    coloured = [method.label for method in study.methods if method.label != getattr(study.baseline, "label", None)]
    return [
        {
            "label": method.label,
            "mark": MARK if method.label in study.odd else "",
            "tone": coloured.index(method.label) % 8 if method.label in coloured else "base",
            "dash": dashes(looks[method.label]["linestyle"]),
            "settings": settings(method, varied, study),
            "runs": [{"seed": run.seed, "diverged": run.diverged, "points": points(run)} for run in method.runs],
        }
        for method in study.methods
    ]


def settings(method: Method, varied: Sequence[str], study: Study) -> dict[str, str]:
    """What sets a method apart: its own settings that vary, and its entries on the fair-comparison card."""
    own = {name: shown(method.settings[name]) for name in varied if name in method.settings}
    return own | {one.name: one.values[method.label] for one in study.differences if one.name not in own}


def points(run: Run) -> list[dict[str, Any]]:
    return [{**{axis: getattr(point, axis) for axis in AXES}, "values": point.values} for point in run.points]


def dashes(linestyle: Any) -> str:
    return "none" if linestyle == "-" else " ".join(f"{2 * length:g}" for length in linestyle[1])
