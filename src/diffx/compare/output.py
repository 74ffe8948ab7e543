"""Everything a comparison writes, and what it says in the terminal."""

import os
import re
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from itertools import groupby
from pathlib import Path

from rich.console import Console

from diffx.compare.design import Response, find_responses
from diffx.compare.shown import caption as captions
from diffx.compare.shown import words
from diffx.compare.shown.cell import Table
from diffx.compare.shown.forecast import forecast_study
from diffx.compare.shown.page import write_page
from diffx.compare.shown.pictures import figure
from diffx.compare.shown.pictures.answer import can_answer, draw_answer
from diffx.compare.shown.pictures.samples import draw_samples, list_rows
from diffx.compare.shown.pictures.style import save
from diffx.compare.shown.pictures.sweep import draw_sweep
from diffx.compare.shown.publish import Destination, check_extra, publish
from diffx.compare.shown.published import find_published, read_published
from diffx.compare.shown.scaling import draw_scaling, scale_study, write_scaling
from diffx.compare.shown.table import make_tables, write_csv
from diffx.compare.study import Study, count_in, make_study
from diffx.curves.metric import pick_alignments
from diffx.curves.read import find_runs
from diffx.plain import escape_markdown
from diffx.store.whole_file import write_text

FILES = {"step": "steps", "images": "images", "train_flops": "flops"}  # compare_steps.png, ...


def compare(
    paths: Sequence[Path],
    out: Path | None = None,
    mixed: bool = False,
    *,
    baseline: str | None = None,
    targets: Sequence[float] = (),
    best: bool = False,
    protocol: str | None = None,
    cost: str = "measured",
    forecast: float | None = None,
    scaling: bool = False,
    caption: str = "full",
    destination: Destination | None = None,
    console: Console | None = None,
) -> Path:
    """Compares the runs at or below `paths`, writes the files into the folder `out` and prints the tables.

    Args:
        out: the folder; by default `compare` in the runs' common parent.
        mixed: draw runs that were measured unlike each other, marked.
        baseline: the label to compare with; by default the method without plugins.
        targets: values to time instead of the usual ladder.
        best: take the best value so far.
        protocol: compare evaluations that diffx.evaluate made under this protocol instead of those of training.
        cost: `measured`, or `normalised`: methods with the same FLOPs of a step are charged the same for it.
        forecast: hours of a budget beyond the runs, for which to forecast every method.
        scaling: fit how the distances fall with training FLOPs over the methods' networks.
        caption: what stands in the pictures under the curves: `none`, `short` (how to read them) or `full` (and on what
            the comparison rests); the page and the Markdown have all of it.
        destination: where to publish in W&B too.

    Returns the folder. Raises DiffxError, with nothing written, when the runs cannot be compared.
    """
    paths, console = [Path(path) for path in paths], console or Console()
    if destination is not None:
        check_extra()
    found = make_study(paths, mixed, baseline, targets, best, protocol=protocol, cost=cost)
    found = replace(found, published=tuple(read_published(find_published())))
    found = found if forecast is None else forecast_study(found, forecast)
    found = scale_study(found) if scaling else found
    folder = Path(out) if out is not None else find_common_parent(paths) / "compare"
    tables = make_tables(found)
    write_files(found, tables, folder, caption)
    say(found, tables, folder, console)
    if destination is not None:
        for sentence in publish(found, folder, tables, words.write_verdict(found), destination):
            console.print(sentence, highlight=False, markup=False, soft_wrap=True)
    return folder


def find_common_parent(paths: Sequence[Path]) -> Path:
    """The deepest folder above all runs; what is said of a single run goes beside its folder."""
    folders = [source.folder for source in find_runs(paths)]
    shared = Path(os.path.commonpath(folders))
    return shared.parent if shared in folders else shared


def write_files(study: Study, tables: Sequence[Table], folder: Path, length: str = "full") -> None:
    """All files of the comparison; `length` is of the captions in the pictures."""
    samples, said = list_rows(study), captions.write_caption(study, length)
    figures = {"compare": figure.draw(study, said)}
    if pick_alignments(study.points.metrics()):
        figures["alignment"] = figure.draw_alignment(study, said)
    if can_answer(study):
        figures["answer"] = draw_answer(study)
    if study.forecasts:
        beyond = captions.write_forecast_caption(study) if length == "full" else ""
        figures["forecast"] = figure.draw(study, beyond, ahead=True)
    if study.scalings:
        figures["scaling"] = draw_scaling(study.scalings)
    for axis in list_axes(study):
        other = count_in(study, axis)
        figures[f"compare_{FILES[axis]}"] = figure.draw(other, captions.write_caption(other, length))
    figures |= {name: draw_sweep(study, sweep) for name, sweep in list_sweeps(study)}
    written = [path for name, one in figures.items() for path in save(one, folder, name)]
    if samples:
        written += save(draw_samples(study, samples), folder, "samples", ["png"])
    links = ["compare.csv", *(path.name for path in written if path.suffix == ".png")]
    write_text(folder / "compare.html", write_page(study, tables, samples, links))
    write_data(study, tables, folder, bool(samples))


def write_data(study: Study, tables: Sequence[Table], folder: Path, samples: bool = False) -> None:
    """What needs no picture: the numbers, and the Markdown page. `samples`: whether their picture is there."""
    write_text(folder / "compare.csv", write_csv(study))
    write_text(folder / "compare.md", write_markdown(study, tables, samples))


def list_axes(study: Study) -> list[str]:
    """The axes beside cost that every run has counted."""
    return [axis for axis in study.points.axes() if axis != "cost"]


def list_sweeps(study: Study) -> list[tuple[str, list[Response]]]:
    """The swept settings, each with its responses in all metrics and the name of its picture."""
    found = groupby(find_responses(study), key=lambda one: (one.plugins, one.names))
    return [("response_" + re.sub(r"[^\w.-]", "_", plugins), list(group)) for (plugins, _), group in found]


def write_markdown(study: Study, tables: Sequence[Table], samples: bool = False) -> str:
    """The comparison as one Markdown page beside its pictures."""
    text = escape_markdown
    others = [f"[{axis}](compare_{FILES[axis]}.png)" for axis in list_axes(study)]
    parts = [f"# Comparison: {text(study.name)}", f"**{text(words.write_answer(study))}**"]
    if can_answer(study):
        parts += ["![the answer](answer.png)", text(captions.write_answer_caption(study))]
    parts += unfold("How sure that is, in each metric, and for which budgets", [text(words.write_reasons(study))])
    parts += ["![the curves](compare.png)", text(captions.write_caption(study))]
    if pick_alignments(study.points.metrics()):
        parts.append("![agreement with prompts](alignment.png)")
    if samples:
        parts.append("![samples of the methods, over cost](samples.png)")
    if study.forecasts:
        parts += ["![the forecasts](forecast.png)", text(captions.write_forecast_caption(study))]
    if study.scalings:
        parts += ["![the scaling law](scaling.png)", *(text(write_scaling(law)) for law in study.scalings)]
    parts += [f"![response to {text(', '.join(found[0].names))}]({name}.png)" for name, found in list_sweeps(study)]
    parts += unfold("Tables", [table.markdown() for table in tables])
    parts += write_list("Fair-comparison card", captions.write_card(study))
    parts += [f"The same curves against other axes: {', '.join(others)}."] if others else []
    parts += write_list("Published numbers in the picture", captions.list_published(study))
    parts += write_list("Remarks", study.remarks)
    return "\n\n".join(parts) + "\n"


def unfold(summary: str, parts: Sequence[str]) -> list[str]:
    """Parts that a reader opens."""
    return [f"<details><summary>{summary}</summary>", *parts, "</details>"] if any(parts) else []


def write_list(title: str, lines: Sequence[str]) -> list[str]:
    return [f"### {title}", "\n".join(f"- {escape_markdown(line)}" for line in lines)] if lines else []


def say(study: Study, tables: Sequence[Table], folder: Path, console: Console) -> None:
    """The tables, the remarks and the verdict, ending with where everything is."""
    for table in tables:
        console.print(table)
    show = partial(console.print, highlight=False, markup=False)
    for line in (captions.list_differences(study), *study.cautions, *captions.say_mixed(study)):
        show(line)
    for remark in study.remarks:
        show(f"note: {remark}", style="yellow")
    show(f"\n{words.write_verdict(study)}")
    show(f"\nCurves, tables and data: {folder}/compare.html .png .svg .md .csv", soft_wrap=True)
