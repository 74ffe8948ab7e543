"""diffx: train one diffusion transformer many ways, and see honestly which way was cheapest.

What a notebook needs is here by name, and imported when it is asked for: the command lines set OpenMP's waiting policy
before torch is imported.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from diffx import compare
    from diffx.assemble.services import make_encoder
    from diffx.backbone import DiT
    from diffx.config.compose import compose_config
    from diffx.data import Digits, Latents, Shapes
    from diffx.errors import DiffxError, Diverged
    from diffx.objective import DDPM, EDM, Interpolant
    from diffx.plugin import Plugin, Span
    from diffx.tokens import Tokens
    from diffx.train.module import DiffusionModule

__version__ = "0.2.0"

PLACES = {
    "DDPM": "diffx.objective",
    "EDM": "diffx.objective",
    "DiT": "diffx.backbone",
    "Digits": "diffx.data",
    "DiffusionModule": "diffx.train.module",
    "DiffxError": "diffx.errors",
    "Diverged": "diffx.errors",
    "Interpolant": "diffx.objective",
    "Latents": "diffx.data",
    "Plugin": "diffx.plugin",
    "Shapes": "diffx.data",
    "Span": "diffx.plugin",
    "Tokens": "diffx.tokens",
    "compose_config": "diffx.config.compose",
    "make_encoder": "diffx.assemble.services",
}
__all__ = [
    "DDPM",
    "EDM",
    "DiT",
    "DiffusionModule",
    "DiffxError",
    "Digits",
    "Diverged",
    "Interpolant",
    "Latents",
    "Plugin",
    "Shapes",
    "Span",
    "Tokens",
    "compare",
    "compose_config",
    "make_encoder",
]


def __getattr__(name: str) -> Any:
    if name in PLACES:
        return getattr(importlib.import_module(PLACES[name]), name)
    if name == "compare":  # a package, whose function of that name is diffx.compare.compare([folder, ...])
        return importlib.import_module("diffx.compare")
    raise AttributeError(f"diffx has no {name}; there are {', '.join(__all__)}.")


def __dir__() -> list[str]:
    return [*globals(), *__all__]
