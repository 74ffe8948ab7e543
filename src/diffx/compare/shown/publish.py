"""The comparison in W&B: its figure, page and tables as a run, and a W&B report over the runs that it compares.

The run is written offline unless there is a key, and `wandb sync` sends it later. A report lives on the server alone:
offline, what would be published is left in `wandb_report.json`, and the command that publishes it is said.
"""

import json
import shlex
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from diffx.compare.shown.caption import write_card
from diffx.compare.shown.cell import Table
from diffx.compare.study import Study
from diffx.curves.metric import name_metric
from diffx.errors import DiffxError
from diffx.plain import escape_markdown
from diffx.store.whole_file import write_text

if TYPE_CHECKING:
    from wandb_workspaces.reports.v2 import Report


@dataclass(frozen=True)
class Destination:
    """Where to publish: by default the project that the runs were logged to, and the entity that is logged in."""

    project: str | None = None
    entity: str | None = None


def check_extra() -> None:
    """Refuse before anything is computed where W&B reports cannot be made."""
    try:
        import wandb_workspaces.reports.v2  # noqa: F401
    except ImportError as error:
        raise DiffxError(
            "--wandb makes a W&B report and needs the extra `report`; type pip install 'diffx-train[report]'."
        ) from error


def publish(study: Study, folder: Path, tables: Sequence[Table], verdict: str, where: Destination) -> list[str]:
    """Logs what lies in the folder and publishes the W&B report. Returns sentences that say where it is."""
    from diffx.run.sink import online

    check_extra()
    live, where = online("auto"), Destination(where.project or find_project(study), where.entity)
    directory = log_run(study, folder, tables, where, live)
    report = build_report(study, tables, verdict, where)
    if live:
        report.save()
        return [f"W&B report: {report.url}"]
    write_text(folder / "wandb_report.json", write_json(report))
    folders = [run.source.folder / "wandb" for method in study.methods for run in method.runs]
    waiting = [run for one in folders for run in sorted(one.glob("offline-run-*"))]
    return [
        f"W&B: no key, so the figure and the tables wait in {directory}; what the report will say is in "
        f"{folder / 'wandb_report.json'}. To publish, log in and type:",
        f"wandb sync {' '.join(shlex.quote(str(path)) for path in [*waiting, directory])}",
        repeat_command(),
    ]


def find_project(study: Study) -> str:
    """The project that the first run was logged to."""
    logged = study.methods[0].runs[0].config.get("logger")
    return str((logged if isinstance(logged, dict) else {}).get("project") or "diffx")


def repeat_command() -> str:
    """The command that this comparison was started with, to type once more."""
    arguments = sys.argv[1:] if "--wandb" in sys.argv else ["RUN_OR_STUDY...", "--wandb"]
    return f"python -m diffx.compare {shlex.join(arguments)}"


def log_run(study: Study, folder: Path, tables: Sequence[Table], where: Destination, live: bool) -> Path:
    """One W&B run with the pictures, the page and the tables; returns its directory."""
    import wandb

    name = study.name.replace("'", "")
    methods = {one.label: {"plugins": list(one.plugins), "seeds": list(one.seeds)} for one in study.methods}
    run = wandb.init(
        project=where.project,
        entity=where.entity,
        name=f"compare {name}",
        group=name,
        job_type="compare",
        tags=["compare"],
        dir=folder.resolve(),
        mode="online" if live else "offline",
        config={"comparison": name, "card": write_card(study), "methods": methods},
        settings=wandb.Settings(silent=True, console="off"),
    )
    pictures = {path.stem: wandb.Image(str(path)) for path in sorted(folder.glob("*.png"))}
    page = {"page": wandb.Html((folder / "compare.html").read_text(encoding="utf-8"), inject=False)}
    cells = {f"tables/{one.title}": wandb.Table(list(one.header), [list(row) for row in one.rows]) for one in tables}
    run.log({**pictures, **page, **cells})
    directory = Path(run.dir).parent
    run.finish()
    return directory


def build_report(study: Study, tables: Sequence[Table], verdict: str, where: Destination) -> "Report":
    """The W&B report: the verdict, live panels of every distance against cost and steps, the figure, the tables."""
    import wandb_workspaces.reports.v2 as wr

    name = study.name.replace("'", "")  # it stands between quotes in a filter
    entity, project = where.entity or "", str(where.project)
    runs = wr.Runset(
        entity=entity,
        project=find_project(study),
        name=name,
        filters=f"Config('study') in {study.experiments}",
        groupby=["config.record.label"],
    )
    shown = wr.Runset(entity=entity, project=project, name="comparison", filters=f"Config('comparison') = '{name}'")
    blocks: list[Any] = [
        wr.MarkdownBlock(escape_markdown(verdict)),
        wr.PanelGrid(runsets=[runs], panels=list(plot_distances(study))),
        wr.PanelGrid(runsets=[shown], panels=[wr.MediaBrowser(media_keys=["compare"], num_columns=1)]),
        wr.H2("Fair-comparison card"),
        wr.UnorderedList([*write_card(study)]),
        *(wr.MarkdownBlock(table.markdown()) for table in tables),
    ]
    return wr.Report(entity=entity, project=project, title=f"Comparison: {name}", blocks=blocks, width="fluid")


def plot_distances(study: Study) -> Iterator[Any]:
    """A line plot per distance and axis, log-log, one line a method: the mean over seeds with least and greatest."""
    import wandb_workspaces.reports.v2 as wr

    if study.protocol is not None:
        return  # evaluations after training are not in the runs' own W&B runs
    cost = study.methods[0].runs[0].unit
    for row, result in enumerate(study.results):
        for column, (name, axis) in enumerate({study.cost_name: cost, "steps": "trainer/global_step"}.items()):
            yield wr.LinePlot(
                title=f"{name_metric(result.metric)} against {name}",
                x=axis,
                y=[f"eval/{result.metric}"],
                log_x=True,
                log_y=True,
                groupby_aggfunc="mean",
                groupby_rangefunc="minmax",
                layout=wr.Layout(x=12 * column, y=8 * row, w=12, h=8),
            )


def write_json(report: "Report") -> str:
    """The report's blocks as they were built; the server's own form of them cannot be made offline."""
    import wandb_workspaces.reports.v2 as wr
    from pydantic import TypeAdapter

    text = TypeAdapter(wr.Report).dump_json(report, exclude_none=True)
    return json.dumps(json.loads(text), indent=1) + "\n"
