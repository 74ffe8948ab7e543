"""A λ that changes over the steps, and methods that end."""

import pytest

from diffx.assemble.model import build_model
from diffx.config.compose import compose_config
from diffx.config.identity import identity
from diffx.errors import DiffxError
from diffx.schedule import Ramp
from diffx_plugins.haste import HASTE
from diffx_plugins.layersync import LayerSync


def weights(plugin, steps, name=""):
    found = []
    for step in steps:
        plugin.follow_schedule(step)
        found.append(round(plugin.weights()[name].item(), 6))
    return found


def model(*words):
    return build_model(compose_config(list(words)))


@pytest.mark.parametrize(
    ("schedule", "wanted"),
    [
        ({"schedule": "linear", "last": 0.5, "start": 100, "end": 200}, [0, 0, 0.25, 0.5, 0.5]),
        ({"schedule": "cosine", "first": 0.5, "start": 100, "end": 200}, [0.5, 0.5, 0.25, 0, 0]),
        ({"schedule": "jump", "first": 0.5, "last": 0.1, "end": 200}, [0.5, 0.5, 0.5, 0.1, 0.1]),
    ],
)
def test_a_weight_follows_its_schedule(schedule, wanted):
    assert weights(LayerSync(weight=schedule), [0, 100, 150, 200, 1000]) == wanted


def test_a_cosine_is_slow_at_both_ends():
    ramp = Ramp("cosine", end=100, last=1.0)
    assert ramp(10) == pytest.approx(1 - ramp(90))
    assert ramp(10) < 0.3 * Ramp("linear", end=100, last=1.0)(10)


def test_one_of_several_weights_may_have_a_schedule():
    plugin = HASTE(weight={"align": {"schedule": "linear", "last": 1.0, "end": 10}})
    assert weights(plugin, [0, 5, 10], "align") == [0, 0.5, 1]
    assert weights(plugin, [0, 5, 10], "attention") == [0.5, 0.5, 0.5]


def test_a_schedule_is_typed_on_the_command_line():
    plugins = model("plugins=[layersync]", "plugins.layersync.weight={schedule: linear, last: 0.4, end: 10}").plugins
    assert weights(plugins["layersync"], [0, 5, 10]) == [0, 0.2, 0.4]


def test_every_plugin_may_be_given_a_step_to_stop_at():
    phases = model("plugins=[layersync,tread]", "plugins.tread.stop=7").phases
    assert [(phase.start, phase.plugins) for phase in phases] == [(0, ("layersync", "tread")), (7, ("layersync",))]


def test_a_stop_at_its_default_is_no_part_of_a_runs_name():
    plain, never, late = (
        compose_config(["plugins=[haste]", *more]).id
        for more in ([], ["plugins.haste.stop=250000"], ["plugins.haste.stop=5"])
    )
    assert plain == never != late
    for name in ("haste", "layersync"):
        assert "stop" not in identity(compose_config([f"plugins=[{name}]"]))["plugins"][name]


@pytest.mark.parametrize(
    ("schedule", "says"),
    [
        ({"schedule": "step", "last": 1, "end": 10}, "schedule=step is not known; type linear or cosine or jump"),
        ({"schedule": "linear", "last": 1}, "to step None"),
        ({"schedule": "linear", "last": 1, "start": 10, "end": 10}, "from step 10 to step 10"),
        ({"schedule": "linear", "last": 1, "end": 10, "begin": 2}, "weight.begin is not a setting"),
        ({"schedule": "linear", "end": 10}, "does not change"),
        ({"schedule": "linear", "last": -1, "end": 10}, "weight=-1 is not a finite number >= 0"),
        ({"schedule": "linear", "last": float("inf"), "end": 10}, "weight=inf is not a finite number >= 0"),
        ({"schedule": "linear", "last": "much", "end": 10}, "weight=much is not a finite number >= 0"),
    ],
)
def test_a_schedule_that_is_none_is_refused_in_a_sentence(schedule, says):
    with pytest.raises(DiffxError, match="LayerSync: .*" + says.replace(".", r"\.")):
        LayerSync(weight=schedule)


@pytest.mark.parametrize("step", ["0", "-3", "1.5", "soon"])
def test_a_step_to_stop_at_that_is_none_is_refused(step):
    with pytest.raises(DiffxError, match=r"plugins\.layersync.*stop"):
        model("plugins=[layersync]", f"plugins.layersync.stop={step}")
