"""The report: everything a comparison writes, and what it says in the terminal."""

import os
from collections.abc import Sequence
from dataclasses import replace
from itertools import groupby
from pathlib import Path

from rich.console import Console

from diffx.compare import figure, page, words
from diffx.compare.interact import interaction_tables, interactions
from diffx.compare.publish import Destination, check_extra, publish
from diffx.compare.published import read_published, table_of_published
from diffx.compare.read import AXES, find
from diffx.compare.response import Response, response_table, responses
from diffx.compare.response_figure import draw_responses
from diffx.compare.study import Study, along, study
from diffx.compare.table import Table, comma_separated, tables
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
    destination: Destination | None = None,
    console: Console | None = None,
) -> Path:
    """Compares the runs at or below `paths`, writes the report into the folder `out` and prints its tables.

    Args:
        out: the folder; by default `compare` in the runs' common parent.
        mixed: draw runs that were measured unlike each other, marked.
        baseline: the label to compare with; by default the method without plugins.
        targets: values to time instead of the usual ladder.
        best: take the best value so far.
        protocol: compare evaluations that diffx.evaluate made under this protocol instead of those of training.
        destination: where to publish the report in W&B too.

    Returns the folder. Raises DiffxError when there is nothing to compare or the runs cannot share an axis; nothing is
    written then.
    """
    paths, console = [Path(path) for path in paths], console or Console()
    if destination is not None:
        check_extra()
    published = table_of_published()
    rows = tuple(read_published(published)) if published else ()
    found = study(paths, mixed=mixed, baseline=baseline, targets=targets, best=best, protocol=protocol)
    found = replace(found, published=rows)
    folder = Path(out) if out is not None else common_parent(paths) / "compare"
    write(found, folder)
    say(found, folder, console)
    if destination is not None:
        for sentence in publish(found, folder, all_tables(found), words.paragraph(found), destination):
            console.print(sentence, highlight=False, markup=False, soft_wrap=True)
    return folder


def common_parent(paths: Sequence[Path]) -> Path:
    """The deepest folder above all runs; a single run's report goes beside its seed folder."""
    folders = find(paths)
    shared = Path(os.path.commonpath(folders))
    return shared.parent if shared in folders else shared


def write(study: Study, folder: Path) -> None:
    """All files of the report."""
    caption = words.caption(study)
    figure.save(figure.draw(study, caption), folder, "compare")
    for axis in drawable(study):
        other = along(study, axis)
        figure.save(figure.draw(other, words.caption(other)), folder, f"compare_{FILES[axis]}")
    for name, sweep in sweeps(study):
        figure.save(draw_responses(study, sweep), folder, name)
    write_text(folder / "compare.html", page.html(study, all_tables(study), card(study)))
    write_text(folder / "compare.csv", comma_separated(study))
    write_text(folder / "compare.md", markdown(study, caption))


def drawable(study: Study) -> list[str]:
    """The axes beside cost that every run has counted."""
    points = [point for method in study.methods for run in method.runs for point in run.points]
    return [axis for axis in AXES if axis != "cost" and all(getattr(point, axis) > 0 for point in points)]


def sweeps(study: Study) -> list[tuple[str, list[Response]]]:
    """The swept settings, each with its responses in all metrics and the name of its picture."""
    found = [(key, list(group)) for key, group in groupby(responses(study), key=lambda one: (one.plugins, one.names))]
    return [(f"response_{plugins.replace('+', '_')}", group) for (plugins, _), group in found]


def all_tables(study: Study) -> list[Table]:
    swept = [response_table(one, study) for one in responses(study)]
    return [*tables(study), *interaction_tables(interactions(study), study), *swept]


def markdown(study: Study, caption: str) -> str:
    """The report as one Markdown page beside its pictures."""
    parts = [
        f"# Comparison: {', '.join(dict.fromkeys(method.runs[0].key[0] for method in study.methods))}",
        words.paragraph(study),
        "![the curves](compare.png)",
        caption,
        *(f"![response to {', '.join(sweep[0].names)}]({name}.png)" for name, sweep in sweeps(study)),
        *(table.markdown() for table in all_tables(study)),
        "### Fair-comparison card",
        "\n".join(f"- {line}" for line in card(study)),
    ]
    others = [f"[{study_axis}](compare_{FILES[study_axis]}.png)" for study_axis in drawable(study)]
    parts += [f"The same curves against other axes: {', '.join(others)}."] if others else []
    parts += listed("Published numbers in the picture", words.published(study))
    parts += listed("Remarks", study.remarks)
    return "\n\n".join(parts) + "\n"


def listed(title: str, lines: Sequence[str]) -> list[str]:
    return [f"### {title}", "\n".join(f"- {line}" for line in lines)] if lines else []


def card(study: Study) -> list[str]:
    """What differs beside the plugins, line by line, and who is related to whom."""
    lines = [str(difference) for difference in study.differences] or ["nothing differs beside the plugins"]
    return [*lines, *study.kinship, *study.busy, *words.mixed(study)]


def say(study: Study, folder: Path, console: Console) -> None:
    """The tables, the remarks and the verdict, ending with where everything is."""
    for table in all_tables(study):
        console.print(table.rich())
    for line in (words.differences(study), *study.kinship, *study.busy, *words.mixed(study)):
        console.print(line, highlight=False, markup=False)
    for remark in study.remarks:
        console.print(f"note: {remark}", style="yellow", highlight=False, markup=False)
    console.print()
    console.print(words.paragraph(study), highlight=False, markup=False)
    where = f"\nCurves, tables and data: {folder}/compare.html .png .svg .md .csv"
    console.print(where, highlight=False, markup=False, soft_wrap=True)
