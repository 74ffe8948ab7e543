"""Every compilation has its own clock, pictures do not depend on devices, and a metric's direction is told once."""

import sys
import time
from itertools import pairwise
from pathlib import Path

import pytest
import torch

from diffx.config.compose import compose_config
from diffx.evaluation.evaluation import SHOWN, _in_turn
from diffx.run.sink import Sink
from diffx.train.clock import Meter, graphs_compiled
from diffx.train.ema import update_ema, update_ema_unless
from diffx.train.loop import train
from tests import forks
from tests.run.conftest import small


@pytest.fixture
def ticks(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """A clock that shows the last number in the list."""
    shown = [0.0]
    monkeypatch.setattr(time, "process_time", lambda: shown[-1])
    return shown


def charged(ticks: list[float], steps: list[tuple[float, int]]) -> Meter:
    """A meter after steps that ended at these times with so many graphs compiled in all."""
    compiled = [0]
    meter = Meter(torch.device("cpu"), compilations=lambda: compiled[0])
    meter.start()
    for now, graphs in steps:
        ticks.append(now)
        compiled[0] = graphs
        meter.step()
    return meter


def test_a_step_that_compiles_is_the_compilers_and_charged_as_the_steps_before(ticks: list[float]) -> None:
    """MDTv2 meets its other three numbers of tokens in later steps, and each was charged to training."""
    meter = charged(ticks, [(10, 1), (12, 1), (42, 2), (44, 2)])
    assert meter.seconds["compile"] == 10 + 30
    assert meter.seconds["train"] == 2 + 2 + 2 + 2


def test_steps_that_compile_one_after_the_other_wait_for_one_that_does_not(ticks: list[float]) -> None:
    """A compilation in the second step counted twice."""
    meter = charged(ticks, [(10, 1), (50, 2), (53, 2)])
    assert meter.seconds["compile"] == 50
    assert meter.seconds["train"] == 3 * 3


def test_what_an_evaluation_compiles_is_its_own(ticks: list[float]) -> None:
    compiled = [0]
    meter = Meter(torch.device("cpu"), compilations=lambda: compiled[0])
    meter.start()
    for now in (1.0, 2.0):
        ticks.append(now)
        meter.step()
    with meter.section("eval"):
        compiled[0] = 5
        ticks.append(7.0)
    ticks.append(8.0)
    meter.step()
    assert meter.seconds == {"train": 3.0, "eval": 5.0, "checkpoint": 0.0, "compile": 1.0}


def test_torch_counts_a_graph_for_every_new_shape() -> None:
    torch._dynamo.reset()
    function = torch.compile(lambda x: x.sin() + 1, backend="eager", dynamic=False)
    counts = [graphs_compiled()]
    for size in (3, 3, 4):
        function(torch.ones(size))
        counts.append(graphs_compiled())
    assert [after - before for before, after in pairwise(counts)] == [1, 0, 1]


@pytest.mark.parametrize("decay", [0.3, 0.5, 0.99, 0.9999])
def test_an_average_that_may_stay_is_the_average_bit_for_bit(decay: float) -> None:
    torch.manual_seed(0)
    live, one, other, still = (torch.nn.Linear(33, 17) for _ in range(4))
    for average in (other, still):
        average.load_state_dict(one.state_dict())
    update_ema(one, live, decay)
    update_ema_unless(torch.tensor(False), other, live, decay)
    before = still.weight.clone()
    update_ema_unless(torch.tensor(True), still, live, decay)
    assert torch.equal(one.weight, other.weight)
    assert not torch.equal(one.weight, before)
    assert torch.equal(still.weight, before)


@pytest.mark.parametrize("world", [1, 2, 3, 7])
def test_a_picture_shows_the_same_samples_on_any_number_of_devices(world: int) -> None:
    samples = [torch.tensor(i) for i in range(SHOWN + 5)]
    wanted = -(-SHOWN // world)
    of_ranks = [samples[rank::world][:wanted] for rank in range(world)]
    assert [int(one) for one in _in_turn(of_ranks)[:SHOWN]] == list(range(SHOWN))


def test_wandbs_best_is_what_the_metric_itself_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """W&B kept the minimum of nearest_train, 0 for a copy, as its best."""
    seen: dict[str, str] = {}

    class Logger:
        experiment = property(lambda self: self)

        def define_metric(self, name: str, step_metric: str, summary: str) -> None:
            seen[name] = summary

        def log_metrics(self, *_: object, **__: object) -> None: ...
        def log_image(self, *_: object, **__: object) -> None: ...
        def finish(self) -> None: ...

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("diffx.train.loop.open_sink", lambda run: Sink(Logger()))  # type: ignore[arg-type]
    record = train(compose_config(small("max_steps=1"))).read_record()
    assert seen == {
        "eval/fd_embedded_sup_100": "min",
        "eval/fd_embedded_ssl_100": "min",
        "eval/nearest_train": "max",
    }
    assert record["higher_is_better"] == ["nearest_train"]


def test_two_processes_show_the_samples_of_one(tmp_path: Path) -> None:
    pictures = []
    for devices in (1, 2):
        folder = tmp_path / str(devices)
        folder.mkdir()
        settings = small("max_steps=1", f"trainer.devices={devices}", f"trainer.accumulate={3 - devices}")
        done = forks.run([sys.executable, "-m", "diffx", *settings, "trainer.threads=1"], cwd=folder, text=True)
        assert done.returncode == 0
        (picture,) = folder.glob("runs/digits/*/s0/samples/*.png")
        pictures.append(picture.read_bytes())
    assert pictures[0] == pictures[1]
