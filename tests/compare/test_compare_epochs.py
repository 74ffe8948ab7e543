"""EP@k: epochs, steps, images, FLOPs and hours to a target are one table."""

from pathlib import Path

from made_runs import falling, write_run

from diffx.compare.shown.table import tabulate_epochs
from diffx.compare.study import make_study

METRIC = "fd_embedded_sup_1k"


def test_a_target_is_told_in_epochs_steps_images_flops_and_hours(tmp_path: Path) -> None:
    write_run(tmp_path, "plain", 0, {METRIC: falling(100, 1.0)}, facts={"training_images": 3200})
    write_run(tmp_path, "tread", 0, {METRIC: falling(100, 1.0, 2.0)}, facts={"training_images": 3200})
    study = make_study([tmp_path], targets=[25.0])
    table = tabulate_epochs(study, study.results[0])
    rows = {row[0]: dict(zip(table.header[1:], row[1:], strict=True)) for row in table.rows}
    plain = {"epochs": "6", "steps": "300", "images": "19.2k", "FLOPs": "300G", "CPU-hours": "4"}
    assert rows["plain ≤ 25"] == plain  # 25 at 4 hours, the third of the evaluations at 100 steps of 64 images each
    assert rows["tread ≤ 25"] == {"epochs": "4", "steps": "200", "images": "12.8k", "FLOPs": "200G", "CPU-hours": "2"}


def test_without_a_target_it_is_what_the_baseline_ended_with_and_epochs_only_where_known(tmp_path: Path) -> None:
    write_run(tmp_path, "plain", 0, {METRIC: falling(100, 1.0)})
    study = make_study([tmp_path])
    table = tabulate_epochs(study, study.results[0])
    assert [row[0] for row in table.rows] == ["plain ≤ 12.5"]
    assert "epochs" not in table.header
