"""The conformance suites that a third party runs on its own plugin or backbone, and the tiny run they are made of.

    from diffx.testing import PluginContract

    class TestMine(PluginContract):
        plugin = staticmethod(lambda: Mine(weight=0.1))

runs every test of the contract with pytest, on a CPU, in seconds.
"""

from diffx.testing.backbone_contract import BackboneContract
from diffx.testing.operations import Operations
from diffx.testing.plugin_contract import PluginContract
from diffx.testing.tiny import (
    BATCH,
    CLASSES,
    IMAGE,
    TinyRun,
    example_condition,
    make_registered,
    randomise,
    registered,
    registered_backbones,
    stand_in_encoder,
    stand_in_services,
    tiny_backbone,
    tiny_batch,
    tiny_mdt,
    tiny_of,
    try_set,
)

__all__ = [
    "BATCH",
    "CLASSES",
    "IMAGE",
    "BackboneContract",
    "Operations",
    "PluginContract",
    "TinyRun",
    "example_condition",
    "make_registered",
    "randomise",
    "registered",
    "registered_backbones",
    "stand_in_encoder",
    "stand_in_services",
    "tiny_backbone",
    "tiny_batch",
    "tiny_mdt",
    "tiny_of",
    "try_set",
]
