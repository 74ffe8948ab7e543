"""The contract, run over every registered plugin and every pair of them."""

from typing import Any

from diffx.backbone import RAE2, MaskDiTBackbone, REGBackbone, SprintBackbone
from diffx.testing import PluginContract, make_registered, registered, tiny_of

FAMILIES: dict[str, Any] = {
    "early_head": RAE2,
    "maskdit": MaskDiTBackbone,
    "reg": REGBackbone,
    "sprint": SprintBackbone,
}
"""Of plugins that need another than most."""
OPTIONS: dict[str, dict[str, Any]] = {"early_head": {"early_depth": 2}}


DENSE = "test_a_span_that_drops_nothing_equals_the_dense_pass"
OWN: dict[str, dict[str, Any]] = {"sprint": {DENSE: None}}
"""Of SPRINT another thing is drawn there, the samples without a sparse path: tests/plugins/test_sprint.py has it."""


def backbone_of(name: str) -> dict[str, Any]:
    return (
        {"backbone": staticmethod(lambda: tiny_of(FAMILIES[name], **OPTIONS.get(name, {})))} if name in FAMILIES else {}
    )


for _name in registered():
    globals()[f"Test{_name.upper()}"] = type(
        f"Test{_name.upper()}",
        (PluginContract,),
        {
            "name": _name,
            "plugin": staticmethod(lambda name=_name: make_registered(name)),
            **backbone_of(_name),
            **OWN.get(_name, {}),
        },
    )


def test_the_projects_own_plugins_are_registered():
    own = {"contrastive", "direction", "dispersive", "haste", "layersync", "mdt", "repa", "self_flow", "sra"}
    assert own | {"identity", "maskdit", "reg", "sprint", "sra2", "stochastic_depth", "transcend", "tread"} <= set(
        registered()
    )
