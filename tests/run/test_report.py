"""What a run says while it trains: its forecast, its pace, its memory."""

import re
from collections.abc import Callable

import pytest

from diffx.run.folder import RunDir

Run = Callable[..., RunDir]


def test_after_a_hundred_steps_the_hours_of_the_whole_run_and_its_end_are_forecast(
    run: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    directory = run("max_steps=400", "trainer.threads=1")
    (line,) = [line for line in capsys.readouterr().out.splitlines() if line.startswith("forecast")]
    found = re.fullmatch(
        r"forecast at step 100: (\S+) cpu-hours of training in all, until about \d{4}-\d\d-\d\d \d\d:\d\d", line
    )
    assert found
    spent = directory.read_record()["clock"]["train"] / 3600
    assert 0.3 * spent < float(found.group(1)) < 3 * spent


def test_a_budget_bounds_the_forecast(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    run("max_steps=1000000", "budget={cpu_hours: 0.0012}", "trainer.threads=1")
    (line,) = [line for line in capsys.readouterr().out.splitlines() if line.startswith("forecast")]
    assert "0.0012 cpu-hours" in line


def test_a_run_that_ends_before_is_not_forecast(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    run("max_steps=100")
    assert "forecast" not in capsys.readouterr().out


def test_a_finished_run_says_where_its_time_and_memory_went(run: Run) -> None:
    card = run(plugins=("repa",)).read_record()
    assert card["peak_memory_bytes"] > 2**26
    assert 0 < card["train_parts"]["encoder"] < card["clock"]["train"] + card["clock"]["compile"]
    assert card["train_parts"]["data"] > 0
    assert card["skipped_steps"] == 0
