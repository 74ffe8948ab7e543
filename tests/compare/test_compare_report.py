"""The report end to end: files, tables, words and refusals."""

import csv
import io
import math
import subprocess
import sys
from pathlib import Path

import pytest
from made_runs import falling, write_run
from PIL import Image
from rich.console import Console

from diffx.compare import compare
from diffx.compare.lines import pool
from diffx.compare.output import say, write_data
from diffx.compare.shown.caption import write_caption
from diffx.compare.shown.pictures import figure
from diffx.compare.shown.pictures.style import BASELINE, choose_looks
from diffx.compare.shown.table import make_tables
from diffx.compare.shown.words import write_verdict
from diffx.compare.study import Study, make_study
from diffx.errors import DiffxError

METRIC = "fd_embedded_sup_1k"


def seeds(root: Path, label: str, starts: tuple[float, ...], sooner: float = 1.0) -> None:
    for seed, start in enumerate(starts):
        curves = {METRIC: falling(start, 0.8, sooner), "fd_embedded_ssl_1k": falling(start / 50, 0.8, sooner)}
        write_run(root, label, seed, curves)


def printed(root: Path, out: Path, **options: object) -> str:
    """What the terminal shows; the data lie in `out`, the pictures, which take most of the time, are left out."""
    text = io.StringIO()
    found = make_study([root], **options)  # type: ignore[arg-type]
    tables = make_tables(found)
    write_data(found, tables, out)
    say(found, tables, out, Console(file=text, width=100))
    return text.getvalue()


def records(folder: Path) -> list[dict[str, str]]:
    with (folder / "compare.csv").open() as file:
        return list(csv.DictReader(file))


def test_a_report_holds_the_picture_the_page_the_table_and_the_data(root: Path, tmp_path: Path):
    seeds(root, "plain", (100,))
    seeds(root, "repa", (90,))
    folder = compare([root], tmp_path / "report", console=Console(file=io.StringIO()))
    assert folder == tmp_path / "report"
    assert Image.open(folder / "compare.png").width > 1500
    assert (folder / "compare.svg").read_text().count("<svg") == 1
    assert "![the curves](compare.png)" in (folder / "compare.md").read_text()
    assert {row["method"] for row in records(folder)} == {"plain", "repa"}
    assert not [path for path in folder.iterdir() if path.name.startswith(".")]


def test_the_default_folder_lies_beside_the_runs(root: Path):
    write_run(root, "plain")
    write_run(root, "repa")
    assert compare([root], console=Console(file=io.StringIO())) == (root / "demo" / "compare").resolve()


def test_comparing_twice_gives_the_same_files_and_does_not_read_its_own_report(root: Path):
    write_run(root, "plain")
    write_run(root, "repa")
    folder = compare([root], console=Console(file=io.StringIO()))
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    compare([root], console=Console(file=io.StringIO()))
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before


def test_speed_up_and_equal_cost_are_exact_on_power_laws(root: Path, tmp_path: Path):
    """A method that is everywhere twice as soon has a gain of 2 ** 0.8 at equal cost."""
    seeds(root, "plain", (100,))
    seeds(root, "fast", (100,), sooner=2)
    printed(root, tmp_path / "report")
    fast = [row for row in records(tmp_path / "report") if row["method"] == "fast" and row["metric"] == METRIC]
    exact = [row for row in fast if row["cost_bound"] == "=" and row["speedup_bound"] == "="]
    assert exact
    for row in exact:
        assert float(row["speedup"]) == pytest.approx(2.0, rel=1e-9)
        assert float(row["cost_to_target"]) == pytest.approx((100 / float(row["target"])) ** 1.25 / 2, rel=1e-9)
    assert float(fast[0]["gain_at_equal_cost"]) == pytest.approx(2**0.8, rel=1e-9)


def test_values_are_compared_at_the_largest_cost_that_all_runs_reached(root: Path, tmp_path: Path):
    write_run(root, "plain", costs=(1.0, 2.0, 8.0))
    write_run(root, "repa", costs=(1.0, 2.0, 5.0))
    printed(root, tmp_path / "report")
    assert {row["equal_cost"] for row in records(tmp_path / "report")} == {"5.0"}


def test_the_baselines_final_value_is_a_target_that_all_its_seeds_reach(root: Path, tmp_path: Path):
    """The worst seed ends with 140 / 8 ** 0.8, which the median seed, 100 at first, meets 1.4 ** 1.25 times sooner."""
    seeds(root, "plain", (100, 140, 90))
    seeds(root, "repa", (90, 91, 92))
    printed(root, tmp_path / "report")
    plain = [row for row in records(tmp_path / "report") if row["method"] == "plain" and row["metric"] == METRIC]
    own = [row for row in plain if math.isclose(float(row["target"]), 140 / 8**0.8)]
    assert [row["cost_bound"] for row in own] == ["="]
    assert float(own[0]["cost_to_target"]) == pytest.approx(8 / 1.4**1.25)


def test_targets_can_be_chosen_and_the_unreached_are_printed_as_more_than_the_last_cost(root: Path, tmp_path: Path):
    seeds(root, "plain", (100,))
    seeds(root, "repa", (90,))
    text = printed(root, tmp_path / "report", targets=(0.001,))
    assert "> 8" in text


def test_a_better_value_seen_earlier_counts_with_best_so_far(root: Path, tmp_path: Path):
    write_run(root, "plain", curves={METRIC: lambda cost: abs(cost - 2) + 1})
    printed(root, tmp_path / "now")
    printed(root, tmp_path / "best", best=True)
    assert float(records(tmp_path / "now")[0]["final_mean"]) == 7.0
    assert float(records(tmp_path / "best")[0]["final_mean"]) == 1.0


def told(root: Path) -> str:
    return write_verdict(make_study([root]))


def test_words_say_that_one_seed_cannot_tell(root: Path):
    seeds(root, "plain", (100,))
    seeds(root, "repa", (50,))
    assert told(root).startswith("With so few seeds no method can be said to beat plain.")
    assert "One seed cannot tell a difference from chance" in told(root)


def test_words_say_that_no_method_beats_the_baseline(root: Path):
    seeds(root, "plain", (50, 51, 52))
    seeds(root, "repa", (90, 91, 92))
    assert told(root).startswith("At equal cost no method beats plain in both feature spaces.")
    assert "repa (17.2) is worse by more than the seeds' spread; so no method beats plain here" in told(root)


def test_words_say_that_a_difference_is_within_the_spread(root: Path):
    seeds(root, "plain", (90, 100, 110))
    seeds(root, "repa", (89, 99, 109))
    assert "cannot be told from it: the difference is within the seeds' spread" in told(root)


def test_words_say_that_a_method_is_better_beyond_the_spread_and_how_much_sooner(root: Path):
    seeds(root, "plain", (100, 101, 102))
    seeds(root, "repa", (100, 101, 102), sooner=2)
    assert told(root).startswith("At equal cost repa beats plain in both feature spaces.")
    assert "is better by more than the seeds' spread" in told(root)
    assert "reached 2 times sooner by repa" in told(root)


def test_words_say_that_the_feature_spaces_disagree(root: Path):
    write_run(root, "plain")
    write_run(root, "repa", curves={METRIC: falling(50, 0.8), "fd_embedded_ssl_1k": falling(4, 0.8)})
    assert told(root).startswith("At equal cost no method beats plain in both feature spaces.")
    assert "The feature spaces disagree about repa" in told(root)


def test_words_say_when_nothing_was_measured_at_one_cost(root: Path):
    write_run(root, "plain", costs=(1.0,))
    write_run(root, "repa", costs=(2.0,))
    assert told(root).startswith("No method was measured at a cost at which the baseline was too")


def test_words_call_two_seeds_too_few(root: Path):
    seeds(root, "plain", (100, 101))
    seeds(root, "repa", (50, 51))
    assert "too few seeds" in told(root)
    assert "1 of 3 cases" in told(root)


def test_other_measurements_are_listed_beside_what_real_images_score(root: Path, tmp_path: Path):
    curves = {METRIC: falling(9, 0.1), "nearest_train": falling(3, 0)}
    write_run(root, "plain", curves=curves, facts={"reference": {"floor": {"nearest_train": 2.5}}})
    printed(root, tmp_path / "report")
    text = (tmp_path / "report" / "compare.md").read_text()
    assert "| plain | 3 |\n| real images | 2.5 |" in text


def test_parameters_are_given_at_inference_and_in_training(root: Path, tmp_path: Path):
    write_run(root, "repa")
    printed(root, tmp_path / "report")
    assert "| repa | 1.8M | 1.9M | 19.2G |" in (tmp_path / "report" / "compare.md").read_text()


def test_the_caption_carries_protocol_differences_and_kinship(root: Path):
    write_run(root, "plain")
    write_run(root, "repa", config={"batch_size": 128})
    text = write_caption(make_study([root]))
    assert "nfe 50" in text
    assert "batch_size: 64 in plain, 128 in repa" in text
    assert "may flatter" in text


def test_mixed_runs_are_marked_in_caption_table_and_picture(root: Path, tmp_path: Path):
    write_run(root, "plain")
    write_run(root, "repa", facts={"protocol_hash": "ff00"})
    text = printed(root, tmp_path / "report", mixed=True)
    assert "repa †" in text
    assert "MIXED, not a fair comparison" in (tmp_path / "report" / "compare.md").read_text()
    assert "repa †" in [name.get_text() for name in figure.draw(make_study([root], mixed=True), "").axes[0].texts]


def test_a_refused_comparison_writes_nothing(root: Path, tmp_path: Path):
    write_run(root, "plain")
    write_run(root, "repa", facts={"protocol_hash": "ff00"})
    with pytest.raises(DiffxError):
        compare([root], tmp_path / "report")
    assert not (tmp_path / "report").exists()


def test_bad_runs_are_reported_and_the_rest_is_drawn(root: Path, tmp_path: Path):
    write_run(root, "plain")
    write_run(root, "repa")
    (write_run(root, "tread") / "curve.jsonl").write_text("")
    text = printed(root, tmp_path / "report")
    assert "demo/tread/s0: skipped: no evaluations" in text
    assert "demo/tread/s0" in (tmp_path / "report" / "compare.md").read_text()


def test_only_bad_runs_are_an_error_that_says_why(root: Path):
    (write_run(root, "plain") / "curve.jsonl").write_text("")
    with pytest.raises(DiffxError, match="no evaluations"):
        compare([root])


def test_a_single_feature_space_is_remarked(root: Path):
    write_run(root, "plain", curves={METRIC: falling(9, 0.1)})
    assert any("only one feature space" in remark for remark in make_study([root]).remarks)


def test_waiting_for_data_and_encoders_stand_beside_the_training_that_they_are_part_of(root: Path, tmp_path: Path):
    write_run(root, "repa", facts={"clock": {"train": 7200.0}, "train_parts": {"data": 360.0, "encoder": 1800.0}})
    printed(root, tmp_path / "report")
    text = (tmp_path / "report" / "compare.md").read_text()
    assert "| method | total | train | of train: data | of train: encoder |" in text
    assert "| repa | 8 | 2 | 0.1 | 0.5 |" in text


def test_the_first_table_shows_every_feature_space(root: Path, tmp_path: Path):
    seeds(root, "plain", (100,))
    seeds(root, "fast", (100,), sooner=2)
    printed(root, tmp_path / "report")
    text = (tmp_path / "report" / "compare.md").read_text()
    assert "| method | FD embedded sup | gain | sooner | FD embedded ssl | gain | sooner |" in text
    assert "| fast | 10.9 | 1.74× | 2× | 0.218 | 1.74× | 2× |" in text


def test_targets_that_no_two_methods_reach_are_remarked_and_the_rest_is_drawn(root: Path, tmp_path: Path):
    seeds(root, "plain", (100,))
    seeds(root, "slow", (600,))
    text = printed(root, tmp_path / "report")
    assert "FD embedded sup (1k samples): no target was reached by two methods" in " ".join(text.split())


def test_a_run_that_cuts_the_comparison_short_is_remarked(root: Path):
    for label, costs in (("plain", (1.0, 8.0)), ("repa", (1.0, 8.0)), ("tread", (1.0, 2.0))):
        write_run(root, label, costs=costs)
    assert any("demo/tread/s0 ends at 2 of the usual 8 CPU-hours" in remark for remark in make_study([root]).remarks)


def test_a_slow_seed_stands_on_the_card_and_the_cost_of_a_step_beside_its_flops(root: Path, tmp_path: Path):
    write_run(root, "plain", 0, costs=(1.0, 2.0))
    write_run(root, "plain", 1, costs=(1.0, 2.6))
    write_run(root, "repa", 0, costs=(1.0, 3.45), facts={"flops": {"train_per_image": 4.5e8, "relative_forward": 1.2}})
    printed(root, tmp_path / "report")
    text = (tmp_path / "report" / "compare.md").read_text()
    assert "- Timed on a busy machine? Each step cost more than the fastest sibling's in plain seed 1 (+30%)" in text
    assert "| 28.8G | 1.50× | 1.50× |" in text


def test_unequal_seeds_are_remarked(root: Path):
    seeds(root, "plain", (100, 101))
    seeds(root, "repa", (90,))
    assert any("unequal seeds (plain: 0 1; repa: 0)" in remark for remark in make_study([root]).remarks)


def lines_of(found: Study) -> dict[str, str]:
    axis = figure.draw(found, "").axes[0]
    return {str(line.get_color()): str(line.get_linestyle()) for line in axis.lines if len(line.get_xdata()) > 2}


def test_every_method_has_a_colour_of_its_own_and_the_baseline_is_black(root: Path):
    for label in ("plain", "repa", "mdt", "tread"):
        write_run(root, label)
    found = make_study([root])
    looks = choose_looks(found.methods, found.baseline)
    assert looks["plain"]["color"] == BASELINE
    assert len({look["color"] for look in looks.values()}) == 4
    assert len(lines_of(found)) == 4


def test_more_methods_than_colours_are_told_apart_by_dashes(root: Path):
    for number in range(20):
        write_run(root, f"m{number}")
    found = make_study([root])
    assert len({str(look) for look in choose_looks(found.methods, None).values()}) == 20


def test_the_band_over_seeds_covers_only_the_cost_that_all_seeds_reached(root: Path):
    write_run(root, "plain", 0, costs=(1.0, 2.0, 8.0))
    write_run(root, "plain", 1, costs=(1.5, 4.0))
    line = pool(list(make_study([root]).points.curves("plain", METRIC).values()))
    assert line.x[line.evaluated].tolist() == [1.5, 2.0, 4.0]
    assert line.seeds == 2


def test_the_command_exits_with_2_and_one_sentence(tmp_path: Path):
    done = subprocess.run(
        [sys.executable, "-m", "diffx.compare", str(tmp_path / "none")], capture_output=True, text=True, check=False
    )
    assert done.returncode == 2
    assert "is not a folder" in done.stderr
    assert "Traceback" not in done.stderr
