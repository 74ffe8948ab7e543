"""What a repository's layout of weights says: which network of diffx it is, and the rules by which its files differ."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from diffx.checkpoint.rules import Rule, Settings

SIZES: Mapping[str, Mapping[str, Any]] = {
    "s": {"hidden_size": 384, "depth": 12, "num_heads": 6},
    "b": {"hidden_size": 768, "depth": 12, "num_heads": 12},
    "l": {"hidden_size": 1024, "depth": 24, "num_heads": 16},
    "xl": {"hidden_size": 1152, "depth": 28, "num_heads": 16},
}
PLAIN = {  # DiT's options, unless a layout says otherwise
    "learn_sigma": False,
    "position": "sincos",
    "norm": "layernorm",
    "mlp": "gelu",
    "qk_norm": False,
    "conditioning": "adaln_zero",
}
SD_VAE = {"input_size": 32, "in_channels": 4, "num_classes": 1000}
F16 = {"input_size": 16, "in_channels": 32, "num_classes": 1000}
PIXELS = {"input_size": 256, "in_channels": 3, "num_classes": 1000}

VELOCITY = {"_target_": "diffx.objective.Interpolant", "path": "linear", "prediction": "velocity"}
DDPM = {"_target_": "diffx.objective.DDPM", "min_snr": None}
EDM = {"_target_": "diffx.objective.EDM"}


@dataclass(frozen=True)
class Layout:
    """One repository's.

    objective: what its networks are trained for, as configuration. backbone: their class in diffx.backbone. options: of
    it, beside the sizes. free: those of them that files of this layout may have otherwise. sizes: by word. latents: of
    ImageNet at 256 pixels.
    rules: in the order of reading. plugin, training_only: whose the weights are that only training uses: official
    prefix -> prefix in the plugin's state. made: official names -> tensors that diffx computes, from the settings.
    backward_time: time runs from noise (0) to data (1), as in SiT; period: the longest of the time's features.
    dead_variance: half of the output rows may be a variance that nothing uses. under_ema: the repository's own code
    looks for the weights under this key of a .pt file, and for those that only training uses.
    """

    objective: Mapping[str, Any]
    options: Mapping[str, Any] = field(default_factory=lambda: PLAIN)
    backbone: str = "DiT"
    free: tuple[str, ...] = ()
    sizes: Mapping[str, Mapping[str, Any]] = field(default_factory=lambda: SIZES)
    latents: Mapping[str, int] = field(default_factory=lambda: SD_VAE)
    rules: tuple[Rule, ...] = ()
    plugin: str | None = None
    training_only: Mapping[str, str] = field(default_factory=dict)
    made: Callable[[Settings], dict[str, Tensor]] = lambda settings: {}
    backward_time: bool = False
    period: float = 10000
    dead_variance: bool = False
    under_ema: bool = False
