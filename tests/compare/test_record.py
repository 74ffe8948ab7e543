"""Records: an entry stands on three whole seeds, and only when it is cheaper than the one before by more than luck."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
from made_runs import falling, write_run

from diffx.record.__main__ import main
from diffx.record.check import check, permute_below
from diffx.record.track import read_track

METRIC = "fd_embedded_sup_1k"
RECORDS = Path(__file__).parents[2] / "experiments" / "records"


def write_track(root: Path) -> Path:
    root.mkdir(parents=True, exist_ok=True)
    facts = {"title": "Digits", "metric": METRIC, "target": 20, "cost": "cpu_hours", "protocol": {"nfe": 50}}
    (root / "track.yaml").write_text(json.dumps(facts))
    return root


def write_entry(track: Path, name: str, sooner: float, seeds: int = 3, **facts: Any) -> Path:
    """Seeds that meet 20 after about 5 / sooner hours."""
    for seed in range(seeds):
        write_run(track / name, "plain", seed, {METRIC: falling(100 + seed, 1.0, sooner)}, facts=facts)
    said = {"by": "A", "date": "2026-12-01", "command": "python -m diffx", "search": "none"}
    (track / name / "record.yaml").write_text(json.dumps(said))
    return track / name


def test_three_whole_seeds_stand_with_their_median_cost(tmp_path: Path) -> None:
    found = check(write_entry(write_track(tmp_path), "001-plain", 1.0))
    assert found.stands
    assert found.before is None
    assert found.cost == pytest.approx(101 / 20, rel=0.01)


def test_a_cheaper_entry_stands_against_the_one_before_with_the_chance_of_luck(tmp_path: Path) -> None:
    track = write_track(tmp_path)
    write_entry(track, "001-plain", 1.0)
    found = check(write_entry(track, "002-tread", 1.5))
    assert found.stands
    assert found.before is not None
    assert found.before[0] == "001-plain"
    assert found.chance == pytest.approx(0.05)


def test_an_entry_is_not_held_against_those_that_came_after_it(tmp_path: Path) -> None:
    track = write_track(tmp_path)
    write_entry(track, "002-tread", 1.5)
    found = check(write_entry(track, "001-plain", 1.0))
    assert found.stands
    assert found.before is None


@pytest.mark.parametrize(
    ("sooner", "seeds", "facts", "said"),
    [
        (1.5, 2, {}, "it has 2 seeds; run 3 at least"),
        (1.0, 3, {}, "it costs 5.05, and 001-plain 5.05"),
        (1.002, 3, {}, "luck alone makes it as much cheaper"),
        (0.4, 3, {}, "seed 0 did not reach fd_embedded_sup_1k 20"),
        (9.0, 3, {}, "seed 0 was below 20 at its first evaluation"),
        (1.5, 3, {"git": {"commit": "abc1234", "dirty": True}}, "seed 0 ran from abc1234 with uncommitted changes"),
        (1.5, 3, {"git": {}}, "seed 1 does not say from which commit it ran"),
        (1.5, 3, {"protocol": {"nfe": 20}}, "seed 2 was measured with nfe 20, and the track has 50"),
        (1.5, 3, {"device": {"kind": "cpu", "name": "Another"}}, "it ran on Another, 001-plain on Two cores"),
        (1.5, 3, {"status": "interrupted"}, "seed 0 is interrupted, not complete"),
    ],
)
def test_what_an_entry_lacks_is_said(tmp_path: Path, sooner: float, seeds: int, facts: Any, said: str) -> None:
    track = write_track(tmp_path)
    write_entry(track, "001-plain", 1.0)
    found = check(write_entry(track, "002-tread", sooner, seeds, **facts))
    assert any(fault.startswith(said) for fault in found.faults), found.faults


def test_the_chance_of_luck_is_the_share_of_splits_that_are_as_cheap() -> None:
    assert permute_below([1, 2, 3], [4, 5, 6]) == pytest.approx(1 / 20)
    assert permute_below([4, 5, 6], [1, 2, 3]) == 1.0


def test_a_seed_of_the_record_before_that_was_never_evaluated_has_no_cost(tmp_path: Path) -> None:
    track = write_track(tmp_path)
    first = write_entry(track, "001-plain", 1.0)
    lost = write_run(first, "plain", 3, facts={"status": "diverged", "diverged_at": 5, "reason": "not finite"})
    (lost / "curve.jsonl").write_text("")
    found = check(write_entry(track, "002-tread", 1.5))
    assert found.chance == pytest.approx(0.05)
    assert found.stands


def test_the_command_ends_with_whether_it_stands(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    track = write_track(tmp_path)
    assert main(["check", str(write_entry(track, "001-plain", 1.0))]) == 0
    assert capsys.readouterr().out.endswith("It stands.\n")
    assert main(["check", str(write_entry(track, "002-more", 1.5, seeds=1))]) == 1
    assert "It does not stand" in capsys.readouterr().out
    assert main(["check", str(track / "003-none")]) == 2
    said = capsys.readouterr().err
    assert said.startswith("diffx: ")
    assert "003-none does not exist; type the folder of an entry" in said


def test_a_cost_that_no_run_counts_is_one_sentence(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    entry = write_entry(write_track(tmp_path), "001-plain", 1.0)
    (tmp_path / "track.yaml").write_text((tmp_path / "track.yaml").read_text().replace("cpu_hours", "hours"))
    assert main(["check", str(entry)]) == 2
    assert "has cost hours; type one of gpu_hours, cpu_hours" in capsys.readouterr().err


def test_what_an_entry_says_cannot_act_on_the_terminal(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    entry = write_entry(write_track(tmp_path), "001-plain", 1.0)
    said = {"by": "A\x1b[31m", "date": "2026-12-01", "command": "python -m diffx", "search": "none"}
    (entry / "record.yaml").write_text(json.dumps(said))
    assert main(["check", str(entry)]) == 0
    assert "\x1b" not in capsys.readouterr().out


def test_every_track_is_read_and_every_entry_of_the_pages_stands() -> None:
    tracks = [read_track(one) for one in sorted(RECORDS.iterdir()) if one.is_dir()]
    assert [one.folder.name for one in tracks] == [
        "digits",
        "imagenet256_fid10",
        "imagenet256_fid3",
        "imagenet256_fid5",
    ]
    listed = re.findall(r"^\| `(\w+)` \|", (RECORDS / "README.md").read_text(), re.MULTILINE)
    assert {one.folder.name for one in tracks} == set(listed)
    assert all(check(entry).stands for one in tracks for entry in one.list_entries())
