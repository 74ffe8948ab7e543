"""The clock charges training for training only, and FLOPs are those of the published tables."""

import time

import pytest
import torch

from diffx.assemble.flops import Flops, count_flops
from diffx.backbone import DiT, MDTBackbone
from diffx.errors import DiffxError
from diffx.objective import Interpolant
from diffx.planner import make_plan
from diffx.plugin import Plugin
from diffx.train.clock import Meter, peak_memory
from diffx_plugins.mdt import MDT
from diffx_plugins.repa import REPA
from diffx_plugins.tread import TREAD


@pytest.fixture
def ticks(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """A clock that shows the last number in the list."""
    shown = [0.0]
    monkeypatch.setattr(time, "process_time", lambda: shown[-1])
    return shown


def test_the_first_step_pays_for_warm_up_and_is_charged_as_the_second(ticks: list[float]) -> None:
    meter = Meter(torch.device("cpu"))
    meter.start()
    for now in (10.0, 12.0, 14.0):
        ticks.append(now)
        meter.step()
    assert meter.seconds["compile"] == 10
    assert meter.seconds["train"] == 2 + 2 + 2
    assert meter.hours == pytest.approx(6 / 3600)


def test_an_outlier_in_the_second_step_is_charged_once(ticks: list[float]) -> None:
    """The first step was charged as the second, however long that took."""
    meter = Meter(torch.device("cpu"))
    meter.start()
    now, charged = 0.0, []
    for elapsed in (100.0, 50.0, 2.0, 2.0, 2.0, 2.0, 9.0):
        now += elapsed
        ticks.append(now)
        meter.step()
        charged.append(meter.seconds["train"])
    assert charged == [0, 50 + 50, 52 + 26, 54 + 2, 56 + 2, 58 + 2, 67 + 2]
    assert meter.device_seconds == 69
    meter.start()  # a resume owes its first step anew
    for elapsed in (30.0, 4.0):
        now += elapsed
        ticks.append(now)
        meter.step()
    assert meter.seconds["train"] == 69 + 4 + 4


def test_an_evaluation_is_not_training(ticks: list[float]) -> None:
    meter = Meter(torch.device("cpu"))
    meter.start()
    for now in (1.0, 2.0):
        ticks.append(now)
        meter.step()
    ticks.append(2.5)
    with meter.section("eval"):
        ticks.append(100.0)
    assert meter.seconds["train"] == 2.5
    assert meter.seconds["eval"] == 97.5


def test_hours_are_summed_over_devices(ticks: list[float]) -> None:
    meter = Meter(torch.device("cpu"), devices=8)
    meter.start()
    for now in (0.0, 1800.0):
        ticks.append(now)
        meter.step()
    assert meter.hours == 8


def test_hours_of_eight_devices_stay_when_one_goes_on(ticks: list[float]) -> None:
    eight = Meter(torch.device("cpu"), devices=8)
    eight.start()
    for now in (0.0, 1800.0):
        ticks.append(now)
        eight.step()
    one = Meter(torch.device("cpu"), devices=1)
    one.load_state_dict(eight.state_dict())
    assert one.hours == 8


def test_time_before_training_starts_is_nobodys(ticks: list[float]) -> None:
    meter = Meter(torch.device("cpu"))
    ticks.append(1000.0)
    with meter.section("eval"):
        ticks.append(1010.0)
    assert meter.seconds["train"] == 0
    assert meter.seconds["eval"] == 10


def test_a_clock_of_the_other_kind_of_device_is_refused() -> None:
    state = Meter(torch.device("cpu")).state_dict()
    with pytest.raises(DiffxError, match="metered in cpu_hours"):
        Meter(torch.device("cuda")).load_state_dict(state)


def test_a_cpu_is_metered_in_cpu_hours_and_a_gpu_in_gpu_hours() -> None:
    assert Meter(torch.device("cpu")).unit == "cpu_hours"
    assert Meter(torch.device("cuda")).unit == "gpu_hours"


def flops_of_xl(plugins: dict[str, Plugin], **options: object) -> Flops:
    with torch.device("meta"):
        family = MDTBackbone if "decoder_layers" in options else DiT
        backbone = family(hidden_size=1152, depth=28, num_heads=16, **options)  # type: ignore[arg-type]
        for plugin in plugins.values():
            plugin.setup(backbone)
    plan = make_plan(backbone, plugins, {"x", "y", "image", "features/dinov2_vitb14"})
    return count_flops(backbone, plugins, Interpolant(), plan, {})


def test_a_forward_of_dit_xl_is_237_gflop_and_a_step_three_times_that() -> None:
    flops = flops_of_xl({})
    assert flops.plain == pytest.approx(237.2e9, rel=1e-3)
    assert flops.train == pytest.approx(3 * flops.forward, rel=1e-2)


@pytest.mark.parametrize(("plugin", "published"), [(TREAD, 0.583), (REPA, 1.018)])
def test_the_relative_cost_is_the_measured_one_of_the_official_code(plugin: type[Plugin], published: float) -> None:
    assert flops_of_xl({"p": plugin()}).relative == pytest.approx(published, abs=1e-3)


def test_mdtv2_xl_costs_1_84_forwards_of_dit_xl() -> None:
    options = {"learn_sigma": True, "position": "learned", "decoder_layers": 4, "skips": True, "relative_bias": True}
    mdt = flops_of_xl({"mdt": MDT([0.3, 0.5])}, **options)
    assert mdt.plain == pytest.approx(237.2e9, rel=1e-3)
    assert mdt.relative == pytest.approx(1.840, abs=0.01)


def test_teachers_count_as_training() -> None:
    with torch.device("meta"):
        backbone = DiT(hidden_size=128, depth=2, num_heads=4)
        plugin = REPA()
        plugin.setup(backbone)
    plan = make_plan(backbone, {"repa": plugin}, {"features/dinov2_vitb14"})
    without = count_flops(backbone, {"repa": plugin}, Interpolant(), plan, {})
    with_teacher = count_flops(backbone, {"repa": plugin}, Interpolant(), plan, {"features/dinov2_vitb14": 1000})
    assert with_teacher.train == without.train + 1000
    assert with_teacher.forward == without.forward


def test_parts_of_training_are_kept_beside_it_and_survive_a_resume() -> None:
    meter = Meter(torch.device("cpu"))
    meter.start()
    square = meter.timed("encoder", lambda x: x @ x)
    for _ in range(4):
        meter.waits()
        sum(range(100_000))
        meter.got()
        square(torch.ones(300, 300))
        meter.step()
    assert 0 < meter.parts["encoder"] < meter.seconds["train"] + meter.seconds["compile"]
    assert 0 < meter.parts["data"] < meter.seconds["train"] + meter.seconds["compile"]
    resumed = Meter(torch.device("cpu"))
    resumed.load_state_dict(meter.state_dict())
    assert resumed.parts == meter.parts


def test_the_memory_of_this_process_is_at_least_what_a_tensor_in_it_takes() -> None:
    held = torch.ones(2**24)
    assert peak_memory(torch.device("cpu")) > held.nbytes
