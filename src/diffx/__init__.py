"""diffx: train one diffusion transformer many ways, and see honestly which way was cheapest."""

__version__ = "0.1.0"
