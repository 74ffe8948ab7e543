"""diffx's contract, run on this method."""

from diffx_spread import Spread

from diffx.testing import PluginContract


class TestSpread(PluginContract):
    name = "spread"
    plugin = staticmethod(lambda: Spread())
