"""What a run says while it trains: its forecast, its pace, its memory."""

import re
from collections.abc import Callable

import pytest

from diffx.run import screen
from diffx.run.folder import RunDir

Run = Callable[..., RunDir]


def test_after_a_hundred_steps_the_hours_of_the_whole_run_and_its_end_are_forecast(
    run: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    directory = run("max_steps=400", "trainer.threads=1")
    (line,) = [line for line in capsys.readouterr().out.splitlines() if line.startswith("forecast")]
    found = re.fullmatch(
        r"forecast at step 100: (\S+) CPU-seconds of training in all, until about \d{4}-\d\d-\d\d \d\d:\d\d, "
        r"and later by 1 evaluation",
        line,
    )
    assert found
    spent = directory.read_record()["clock"]["train"]
    assert 0.3 * spent < float(found.group(1)) < 3 * spent


def test_a_budget_bounds_the_forecast(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    run("max_steps=1000000", "budget={cpu_hours: 0.0012}", "trainer.threads=1")
    (line,) = [line for line in capsys.readouterr().out.splitlines() if line.startswith("forecast")]
    assert "4.32 CPU-seconds" in line


def test_a_run_that_ends_before_is_not_forecast(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    run("max_steps=100")
    assert "forecast" not in capsys.readouterr().out


def test_a_finished_run_says_where_its_time_and_memory_went(run: Run) -> None:
    card = run(plugins=("repa",)).read_record()
    assert card["peak_memory_bytes"] > 2**26
    assert 0 < card["train_parts"]["encoder"] < card["clock"]["train"] + card["clock"]["compile"]
    assert card["train_parts"]["data"] > 0
    assert card["skipped_steps"] == 0


def test_a_run_says_how_far_it_is_by_the_clock_and_not_by_steps(
    run: Run, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every twenty steps of a large network are minutes of silence."""
    monkeypatch.setattr(screen.Lines, "due", lambda self: True)
    run("log_every=1000", "eval.first=4", "max_steps=6")
    said = capsys.readouterr().out.splitlines()
    assert [line for line in said if re.match(r"step 5 · .* samples/s · 0:00:0\d left", line)]
    assert [line for line in said if re.match(r"step 4 · measuring: 100 of 100 samples · ", line)]


def test_a_sweep_that_draws_a_table_is_sent_records_that_it_can_read(
    run: Run, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(screen.RECORDS, "1")
    monkeypatch.setattr(screen.Records, "due", lambda self: True)
    run("eval.first=4", "max_steps=6")
    moments = [found for line in capsys.readouterr().out.split("\n") if (found := screen.read_record(line))]
    assert moments[-1].value is not None
    assert moments[-1].value[0] == "fd_embedded_sup_100"
    assert {moment.step for moment in moments if not moment.measured} == {1, 2, 3, 4, 5, 6}
