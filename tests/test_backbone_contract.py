"""The contract, run over every registered backbone."""

from diffx.testing import BackboneContract, registered_backbones

for _name, _family in registered_backbones().items():
    globals()[f"Test{_name.upper()}"] = type(f"Test{_name.upper()}", (BackboneContract,), {"family": _family})


def test_the_projects_own_backbones_are_registered():
    assert {"ddt", "dit", "mdt", "uvit"} <= set(registered_backbones())
