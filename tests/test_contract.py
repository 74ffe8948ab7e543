"""The contract, run over every registered plugin and every pair of them."""

from diffx.backbone import REGBackbone
from diffx.testing import PluginContract, make_registered, registered, tiny_of

BACKBONES = {"reg": {"backbone": staticmethod(lambda: tiny_of(REGBackbone))}}
"""Of plugins that need another than most."""

for _name in registered():
    globals()[f"Test{_name.upper()}"] = type(
        f"Test{_name.upper()}",
        (PluginContract,),
        {
            "name": _name,
            "plugin": staticmethod(lambda name=_name: make_registered(name)),
            **BACKBONES.get(_name, {}),
        },
    )


def test_the_projects_own_plugins_are_registered():
    own = {"contrastive", "direction", "dispersive", "haste", "layersync", "mdt", "repa", "self_flow", "sra"}
    assert own | {"identity", "reg", "stochastic_depth", "tread"} <= set(registered())
