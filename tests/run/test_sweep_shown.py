"""What a user sees of a sweep: its runs by name, one table on a terminal, lines elsewhere."""

import io
import json
import time
from dataclasses import asdict

import pytest
from rich.console import Console

from diffx.commands.sweep.processes import places_of
from diffx.commands.sweep.table import SweepTable
from diffx.commands.sweep.words import announce, name_jobs
from diffx.config.compose import compose_config, split_sweep
from diffx.run.folder import RunDir
from diffx.run.forecast import Left
from diffx.run.screen import MARK, Moment, Records


def named(*typed: str) -> list[str]:
    return list(name_jobs([compose_config(job) for job in split_sweep(typed)]))


def test_the_runs_of_a_sweep_are_named_by_what_differs() -> None:
    assert named("plugins=[repa]", "plugins.repa.weight=0.25,0.5") == ["repa weight=0.25 s0", "repa weight=0.5 s0"]
    assert named("plugins=[],[tread]", "seed=0,1") == ["plain s0", "plain s1", "tread s0", "tread s1"]
    several = named("plugins=[repa,tread]", "plugins.repa.depth=2,3", "backbone.depth=6,8")
    assert several[:2] == [
        "repa+tread backbone.depth=6 repa.depth=2 s0",
        "repa+tread backbone.depth=8 repa.depth=2 s0",
    ]


def test_a_run_is_given_its_name_as_its_title_which_makes_no_other_run() -> None:
    jobs = [compose_config([f"optimizer.lr={lr}"]) for lr in (1e-3, 2e-3)]
    for job, titled in zip(jobs, name_jobs(jobs).values(), strict=True):
        assert titled.title == f"plain lr={job.optimizer.lr:g}"
        assert titled.id == job.id


def test_a_study_names_the_folder_and_leaves_the_id() -> None:
    plain, named = compose_config([]), compose_config(["study=mine"])
    assert named.id == plain.id
    assert RunDir.of(named).path.parts[:2] == ("runs", "mine")
    assert RunDir.of(plain).path.parts[:2] == ("runs", "digits")


def test_before_the_first_run_it_is_said_how_many_how_many_at_once_and_for_how_long() -> None:
    jobs = name_jobs([compose_config(job) for job in split_sweep(["+experiment=demo"])])
    first, second = announce(jobs, 2).splitlines()
    assert first == "5 runs, 2 at a time: plain s0, repa s0, mdt s0, tread s0, repa+tread s0"
    assert second.startswith("108 CPU-seconds of training each: 0:04:30 in all")
    steps = name_jobs([compose_config([f"max_steps={count}", f"seed={count}"]) for count in (100, 2000)])
    assert announce(steps, 8).endswith("100 to 2,000 steps each")
    assert announce(steps, 8).startswith("2 runs, 2 at a time")


def test_on_a_cpu_two_runs_train_at_once_unless_the_user_says_more(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    monkeypatch.setattr("os.cpu_count", lambda: 8)
    assert places_of(1, None) == ["", ""]
    assert places_of(1, 3) == ["", "", ""]


def terminal(width: int = 80, height: int = 24) -> Console:
    return Console(file=io.StringIO(), force_terminal=True, width=width, height=height, color_system=None)


def drawn(table: SweepTable) -> str:
    console = table.console
    with console.capture() as captured:
        console.print(table.draw())
    return captured.get()


def record(step: int, seconds: float, **more: object) -> str:
    moment = Moment(step, 0.5, {"denoise": 0.4, "total": 0.5}, 100.0, left=Left(seconds), **more)  # type: ignore[arg-type]
    return MARK + json.dumps(asdict(moment)) + "\n"


def test_the_table_shows_every_run_with_its_step_loss_value_and_time_left() -> None:
    table = SweepTable(["plain s0", "repa weight=0.25 s0"], 2, terminal())
    table.begin("plain s0")
    table.hear("plain s0", record(1234, 125.0, value=("fd_embedded_sup_500", 1.794)))
    said = drawn(table)
    (row,) = [line for line in said.splitlines() if line.strip().startswith("plain s0")]
    assert row.split()[-4:] == ["1234", "0.500", "1.79", "0:02:05"]
    assert " fd_embedded_sup " in said
    assert "repa weight=0.25 s0" in said
    assert max(map(len, said.splitlines())) <= 80


def test_while_a_run_is_measured_the_table_keeps_its_last_loss() -> None:
    table = SweepTable(["plain s0"], 1, terminal())
    table.begin("plain s0")
    table.hear("plain s0", record(8, 125.0))
    measuring = Moment(8, 0.5, left=Left(100.0), measured=(250, 500))
    table.hear("plain s0", MARK + json.dumps(asdict(measuring)))
    assert "0.500" in drawn(table)
    assert "measuring 50%" in drawn(table)


def test_the_time_of_the_whole_sweep_counts_the_runs_that_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[-1])
    table = SweepTable(["a", "b", "c", "d", "e"], 2, terminal())
    for name in ("a", "b"):
        table.begin(name)
        table.hear(name, record(1, 60.0))
    now.append(40.0)
    # Two run for 60 more seconds; three wait, each of 100 seconds, two at a time.
    assert table.seconds_left() == pytest.approx((2 * 60 + 3 * 100) / 2)
    assert "3 waiting" in table.summary()
    table.hear("a", MARK + json.dumps(asdict(Moment(1, 0.1, left=Left(60.0, 3)))))
    assert table.seconds_left() is None  # evaluations that nobody has timed


def test_a_long_sweep_keeps_to_half_of_the_terminal_and_shows_what_trains() -> None:
    table = SweepTable([f"run {k}" for k in range(60)], 2, terminal())
    table.begin("run 57")
    assert "run 57" in drawn(table)
    assert len(drawn(table).splitlines()) <= 16


def test_a_record_with_a_warning_in_it_is_shown_and_ends_no_sweep() -> None:
    table = SweepTable(["plain s0"], 1, terminal())
    table.hear("plain s0", record(8, 125.0).rstrip() + "UserWarning: slow\n")
    assert "UserWarning: slow" in table.console.file.getvalue()  # type: ignore[attr-defined]


def test_a_record_is_one_write_so_that_no_other_process_writes_into_it(monkeypatch: pytest.MonkeyPatch) -> None:
    class Written(list[str]):
        write = list.append

        def flush(self) -> None: ...

    written = Written()
    monkeypatch.setattr("sys.stdout", written)
    Records().show(Moment(8, 0.5))
    assert len([part for part in written if part]) == 1


def test_what_a_run_says_scrolls_by_above_the_table_behind_its_name() -> None:
    table = SweepTable(["plain s0"], 1, terminal())
    table.hear("plain s0", "step 75 · fd 10 [/red]\n")
    assert "[plain s0] step 75 · fd 10 [/red]" in table.console.file.getvalue()  # type: ignore[attr-defined]
