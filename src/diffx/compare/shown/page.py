"""The interactive page: one HTML file that opens offline, with the pictures' own SVG inside and a script over it."""

import base64
import io
import json
from collections.abc import Sequence
from importlib.resources import files
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from PIL import Image

from diffx.compare.card import MARK
from diffx.compare.lines import Line
from diffx.compare.shown.caption import describe_basis, read_panel, write_answer_caption, write_card
from diffx.compare.shown.cell import Table
from diffx.compare.shown.pictures.answer import can_answer, draw_answer_alone
from diffx.compare.shown.pictures.figure import draw_alone
from diffx.compare.shown.pictures.panel import LONGEST_ON_PAGE, Panel, make_panel
from diffx.compare.shown.pictures.samples import Rows, list_prompts, say_samples
from diffx.compare.shown.pictures.style import choose_looks, in_style
from diffx.compare.shown.words import write_answer, write_reasons
from diffx.compare.study import AXIS_NAMES, Study, count_in
from diffx.curves.method import find_varied
from diffx.curves.metric import name_metric
from diffx.plain import write_number, write_value

SCALES = ("log", "linear")


def write_page(study: Study, tables: Sequence[Table], samples: Rows, links: Sequence[str]) -> str:
    """The page. It loads nothing: pictures, style and script are inlined, and its content policy forbids the rest.

    `links`: names of files beside it.
    """
    data = json.dumps(collect(study, tables, samples, links), allow_nan=False).replace("<", "\\u003c")
    page = (files("diffx.compare.shown") / "page.html").read_text(encoding="utf-8")
    return page.replace("/*DATA*/", data)


def collect(study: Study, tables: Sequence[Table], samples: Rows, links: Sequence[str]) -> dict[str, Any]:
    """All that the script shows, as plain data."""
    compared = [result.metric for result in study.results]
    metrics = [*compared, *(name for name in study.points.metrics() if name not in compared)]
    axes = study.points.axes()
    counted = {axis: count_in(study, axis) for axis in axes}
    return {
        "title": f"Comparison: {study.name}",
        "answer": write_answer(study),
        "verdict": write_reasons(study),
        "pictured": draw_pictured(study),
        "reading": {axis: {name: read_panel(one, name) for name in metrics} for axis, one in counted.items()},
        "basis": describe_basis(study),
        "axes": [{"key": axis, "label": AXIS_NAMES.get(axis, study.cost_name)} for axis in axes],
        "metrics": [{"key": name, "title": name_metric(name), "shown": name in compared} for name in metrics],
        "methods": describe_methods(study),
        "pictures": {axis: draw_pictures(one, metrics) for axis, one in counted.items()},
        "samples": list_samples(study, samples),
        "tables": [vars(table) for table in tables],
        "card": write_card(study),
        "remarks": list(study.remarks),
        "links": list(links),
    }


def draw_pictured(study: Study) -> dict[str, Any]:
    """The answer as an SVG a metric, with what stands under them; empty without an answer."""
    if not can_answer(study):
        return {}
    svgs = [write_svg(draw_answer_alone(study, result)) for result in study.results]
    return {"svgs": svgs, "caption": write_answer_caption(study)}


def list_samples(study: Study, rows: Rows) -> dict[str, Any]:
    """Samples by method as PNGs in text, each with its cost; empty without any."""
    if not rows:
        return {}
    shown = [{"label": study.mark(label), "pictures":
              [{"png": write_png(one.pixels), "said": f"{write_number(one.cost)} {study.unit_name}"}
               for one in row if one is not None]} for label, row in rows.items()]  # fmt: skip
    prompts = list_prompts(study)
    listed = [f"{place}. {words}" for place, words in enumerate(prompts, start=1)]
    return {"rows": shown, "caption": " ".join([say_samples(prompts), *listed])}


def write_png(pixels: np.ndarray) -> str:
    """As base64."""
    data = io.BytesIO()
    Image.fromarray(pixels).save(data, format="png")
    return base64.b64encode(data.getvalue()).decode()


@in_style
def write_svg(figure: Figure) -> str:
    """Without what stands before the element."""
    text = io.StringIO()
    nameless = {"Date": None, "Creator": None, "Format": None, "Type": None}
    figure.savefig(text, format="svg", transparent=True, metadata=nameless)
    svg = text.getvalue()
    return svg[svg.index("<svg") :]


def describe_methods(study: Study) -> list[dict[str, Any]]:
    """Methods with their colours, and the settings and entries of the card that set each of them off."""
    varied = find_varied([method.settings for method in study.methods])
    looks = choose_looks(study.methods, study.baseline)
    found = []
    for method in study.methods:
        own = {name: write_value(method.settings[name]) for name in varied if name in method.settings}
        own |= {one.name: one.values[method.label] for one in study.differences if one.name not in own}
        lost = [f"{method.diverged} of {len(method.runs)} seeds diverged"] if method.diverged else []
        settings = [*lost, *(f"{name}: {value}" for name, value in own.items())]
        mark, colour = MARK if method.label in study.odd else "", looks[method.label]["color"]
        found.append({"label": method.label, "mark": mark, "colour": colour, "settings": settings})
    return found


def draw_pictures(study: Study, metrics: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Every metric against the study's axis, on each scale."""
    panels = {metric: make_panel(study, metric, LONGEST_ON_PAGE) for metric in metrics}
    return {metric: {scale: draw_picture(panel, scale, study) for scale in SCALES} for metric, panel in panels.items()}


def draw_picture(panel: Panel, scale: str, study: Study) -> dict[str, Any]:
    """A panel's SVG, and where on it a pointer finds evaluations, rings and published numbers, with what they say."""
    figure = draw_alone(panel, scale)
    svg = write_svg(figure)
    axis, height, unit = figure.axes[0], figure.bbox.height, study.unit_name

    def locate(x: float, y: float) -> list[float]:
        across, up = axis.transData.transform((x, y))
        return [round(float(across), 1), round(float(height - up), 1)]

    curves, rings = {}, {}
    for place, trace in panel.traces.items():
        line = trace.line
        curves[place] = [
            [*locate(x, line.mean[i]), describe_point(panel.title, line, i), f"{write_number(x)} {unit}"]
            for i, x in enumerate(line.x)
            if line.evaluated[i]
        ]
        if trace.ring and not trace.ring.bound and panel.goal is not None:
            met = f"{write_number(panel.goal)} after {write_number(trace.ring.x)} {unit}"
            sooner = f"{trace.ring.factor} sooner than the baseline{trace.ring.interval}"
            rings[place] = [*locate(trace.ring.x, panel.goal), met, sooner]
    marks = [[*locate(m.x, m.value), m.name, f"published: {write_number(m.value)}", m.source] for m in panel.marks]
    return {"svg": svg, "curves": curves, "rings": rings, "marks": marks}


def describe_point(title: str, line: Line, place: int) -> str:
    """`FD 65.9 [65.5 – 66.3], 2 seeds`"""
    low, middle, high = (write_number(values[place]) for values in (line.low, line.mean, line.high))
    return (
        f"{title} {middle}, one seed" if line.seeds == 1 else f"{title} {middle} [{low} – {high}], {line.seeds} seeds"
    )
