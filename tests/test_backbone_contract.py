"""The contract, run over every registered backbone."""

from functools import partial
from types import SimpleNamespace

from diffx.backbone import DiT
from diffx.plugin import Plugin
from diffx.testing import BackboneContract, make_registered, registered_backbones

BESIDE = {"reg": ("reg",), "sr_dit": ("reg", "sprint")}
"""By backbone, the plugins that bring its further streams, or use what else it trains."""


def beside(name: str) -> dict[str, Plugin]:
    return {plugin: make_registered(plugin) for plugin in BESIDE.get(name, ())}


for _name, _family in registered_backbones().items():
    globals()[f"Test{_name.upper()}"] = type(
        f"Test{_name.upper()}",
        (BackboneContract,),
        {"family": _family, "beside": staticmethod(lambda name=_name: beside(name))},
    )

for _name in ("adaln", "post_norm", "cross_attention", "in_context"):
    _family = SimpleNamespace(tiny=partial(DiT.tiny, conditioning=_name))
    globals()[f"TestDIT_{_name}"] = type(f"TestDIT_{_name}", (BackboneContract,), {"family": _family})


def test_the_projects_own_backbones_are_registered():
    assert {"ddt", "dit", "dit_dh", "jit", "maskdit", "mdt", "rae2", "reg", "sprint", "sr_dit", "uvit"} <= set(
        registered_backbones()
    )
