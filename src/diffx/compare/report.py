"""The report: everything a comparison writes, and what it says in the terminal."""

import os
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from diffx.compare import figure, words
from diffx.compare.read import find
from diffx.compare.study import Study, study
from diffx.compare.table import comma_separated, tables
from diffx.compare.write import write_text


def compare(
    paths: Sequence[Path],
    out: Path | None = None,
    mixed: bool = False,
    *,
    baseline: str | None = None,
    targets: Sequence[float] = (),
    best: bool = False,
    console: Console | None = None,
) -> Path:
    """Compares the runs at or below `paths`, writes the report into the folder `out` and prints its tables.

    `out` is by default the folder `compare` in the runs' common parent. `mixed` draws runs that were measured unlike
    each other, marked; `baseline` is the label to compare with (the method without plugins), `targets` are values to
    time instead of the usual ladder, `best` takes the best value so far. Returns the folder. Raises DiffxError when
    there is nothing to compare or the runs cannot share an axis; nothing is written then.
    """
    paths = [Path(path) for path in paths]
    found = study(paths, mixed=mixed, baseline=baseline, targets=targets, best=best)
    folder = Path(out) if out is not None else common_parent(paths) / "compare"
    write(found, folder)
    say(found, folder, console or Console())
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
    write_text(folder / "compare.csv", comma_separated(study))
    write_text(folder / "compare.md", markdown(study, caption))


def markdown(study: Study, caption: str) -> str:
    parts = [
        f"# Comparison: {', '.join(dict.fromkeys(method.runs[0].key[0] for method in study.methods))}",
        words.paragraph(study),
        "![the curves](compare.png)",
        caption,
        *(table.markdown() for table in tables(study)),
        "### Fair-comparison card",
        card(study),
    ]
    if study.remarks:
        parts.append("### Remarks\n\n" + "\n".join(f"- {remark}" for remark in study.remarks))
    return "\n\n".join(parts) + "\n"


def card(study: Study) -> str:
    """What differs beside the plugins, line by line, and who is related to whom."""
    lines = [f"- {difference}" for difference in study.differences] or ["- nothing differs beside the plugins"]
    return "\n".join([*lines, *(f"- {line}" for line in (*study.kinship, *words.mixed(study)))])


def say(study: Study, folder: Path, console: Console) -> None:
    """The tables, the remarks and the verdict, ending with where everything is."""
    for table in tables(study):
        console.print(table.rich())
    for line in (words.differences(study), *study.kinship, *words.mixed(study)):
        console.print(line, highlight=False, markup=False)
    for remark in study.remarks:
        console.print(f"note: {remark}", style="yellow", highlight=False, markup=False)
    console.print()
    console.print(words.paragraph(study), highlight=False, markup=False)
    console.print(
        f"\ncurves, tables and data: {folder}/compare.png .svg .md .csv", highlight=False, markup=False, soft_wrap=True
    )
