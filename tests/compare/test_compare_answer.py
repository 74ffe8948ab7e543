"""The report leads with the answer: what each method needs to reach the baseline's end, and samples side by side."""

import json
from pathlib import Path

import numpy as np
import pytest
from made_runs import falling, write_run
from PIL import Image

from diffx.compare.output import write_markdown
from diffx.compare.shown.page import collect
from diffx.compare.shown.pictures.answer import can_answer, draw_answer
from diffx.compare.shown.pictures.samples import draw_samples, list_rows
from diffx.compare.shown.table import make_tables
from diffx.compare.study import make_study

METRIC = "fd_embedded_sup_1k"


def write_study(root: Path) -> None:
    """Tread reaches plain's end in half the cost, repa in twice; costs end at 8."""
    for label, sooner in (("plain", 1.0), ("repa", 0.5), ("tread", 2.0)):
        for seed in range(3):
            write_run(root, label, seed, {METRIC: falling(100 + seed, 1.0, sooner)})


def test_each_method_has_a_dot_at_its_cost_and_a_whisker_over_its_interval(tmp_path: Path) -> None:
    write_study(tmp_path)
    axis = draw_answer(make_study([tmp_path])).axes[0]
    assert [text.get_text() for text in axis.get_yticklabels()] == ["tread", "repa"]
    whisker, dot, _, unmet, baseline = axis.lines
    assert dot.get_xdata()[0] == pytest.approx(4.0, rel=0.02)
    low, high = whisker.get_xdata()
    assert low < dot.get_xdata()[0] < high < baseline.get_xdata()[0]
    assert (unmet.get_marker(), unmet.get_xdata()[0]) == (">", 8.0)


def test_runs_with_one_evaluation_met_the_goal_before_it_and_are_not_said_to_have_missed_it(tmp_path: Path) -> None:
    for label, start in (("plain", 100), ("tread", 90)):
        for seed in range(3):
            write_run(tmp_path, label, seed, {METRIC: falling(start + seed, 1.0)}, costs=(8.0,))
    said = [text.get_text() for text in draw_answer(make_study([tmp_path])).axes[0].texts]
    assert said == ["–", "plain: < 8"]


@pytest.mark.filterwarnings("error")
def test_a_method_that_was_never_evaluated_leaves_the_panel_its_limits(tmp_path: Path) -> None:
    write_study(tmp_path)
    for seed in range(3):
        folder = write_run(tmp_path, "mdt", seed, facts={"status": "diverged", "diverged_at": 5})
        (folder / "curve.jsonl").write_text("")
    low, high = draw_answer(make_study([tmp_path])).axes[0].get_xlim()
    assert 1 < low < 4 < 8 < high < 20


def test_without_another_method_there_is_no_answer_to_draw(tmp_path: Path) -> None:
    write_run(tmp_path, "plain", 0)
    assert not can_answer(make_study([tmp_path]))


def test_the_page_and_the_markdown_begin_with_one_sentence_and_the_rest_unfolds(tmp_path: Path) -> None:
    write_study(tmp_path)
    study = make_study([tmp_path])
    said = "At equal cost tread beats plain in the one feature space measured."
    page, text = collect(study, [], {}, []), write_markdown(study, [make_tables(study)[0]])
    assert page["answer"] == said
    assert said not in page["verdict"]
    assert len(page["pictured"]["svgs"]) == 1
    assert text.index(said) < text.index("answer.png") < text.index("<details>") < text.index("compare.png")
    assert text.count("<details>") == text.count("</details>") == 2


def test_samples_of_the_methods_stand_side_by_side_and_a_broken_picture_is_left_out(tmp_path: Path) -> None:
    write_study(tmp_path)
    for label, colour in (("plain", 50), ("tread", 200)):
        folder = tmp_path / "demo" / label / "s0" / "samples"
        folder.mkdir()
        for step in (100, 200, 400):
            Image.fromarray(np.full((40, 80), colour, np.uint8)).save(folder / f"step_{step:08d}.png")
    (tmp_path / "demo" / "tread" / "s0" / "samples" / "step_00000400.png").write_bytes(b"\x89PNG no picture")
    study = make_study([tmp_path])
    rows = list_rows(study)
    shown = [[int(image.get_array()[0, 0, 0]) for image in axis.images] for axis in draw_samples(study, rows).axes]
    assert shown == [[50], [50], [50], [50], [200], [200], [200], []]
    page = collect(study, [], rows, [])["samples"]["rows"]
    assert [(row["label"], len(row["pictures"])) for row in page] == [("plain", 4), ("tread", 3)]
    assert page[1]["pictures"][0]["said"] == "1 CPU-hours"
    record = tmp_path / "demo" / "plain" / "s0" / "run.json"
    record.write_text(json.dumps(json.loads(record.read_text()) | {"prompts": [f"a star {i}" for i in range(20)]}))
    prompted = draw_samples(make_study([tmp_path]), rows)
    assert prompted.texts[-2].get_text().splitlines() == [
        f"{place}. a star {i}" for place, i in enumerate((0, 1, 2, 3, 10, 11, 12, 13), start=1)
    ]
    for file in (tmp_path / "demo").glob("*/s0/samples/*.png"):
        file.write_bytes(b"no picture")
    assert list_rows(study) == {}
