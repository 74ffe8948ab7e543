"""The architectures whose files diffx reads, by name: "sit-xl-2" is SiT, size XL, patches of 2."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from diffx import backbone as backbones
from diffx.errors import DiffxError

SIZES = {
    "s": {"hidden_size": 384, "depth": 12, "num_heads": 6},
    "b": {"hidden_size": 768, "depth": 12, "num_heads": 12},
    "l": {"hidden_size": 1024, "depth": 24, "num_heads": 16},
    "xl": {"hidden_size": 1152, "depth": 28, "num_heads": 16},
}
PLAIN = {  # what a backbone is unless its layout says otherwise
    "learn_sigma": False,
    "position": "sincos",
    "norm": "layernorm",
    "mlp": "gelu",
    "qk_norm": False,
    "conditioning": "adaln_zero",
}
DECODER = {"relative_bias": True, "decoder_layers": 2, "skips": False}  # what an MDTBackbone has beside
IMAGENET = {"input_size": 32, "in_channels": 4, "num_classes": 1000}

VELOCITY = {"_target_": "diffx.objective.Interpolant", "path": "linear", "prediction": "velocity"}
DDPM = {"_target_": "diffx.objective.DDPM", "min_snr": None}
EDM = {"_target_": "diffx.objective.EDM"}
SIDE_INTERPOLATER = {"sideblocks.0.": "side_block.", "mask_token": "mask_token"}


@dataclass(frozen=True)
class Layout:
    """How one repository lays out its weights.

    backbone: the class of its networks in diffx.backbone.
    objective: what its networks are trained for, as configuration. options: of the backbone, where not PLAIN. plugin,
    training_only: whose the weights are that only training uses: official prefix -> prefix in the plugin's state.
    backward_time: time runs from noise (0) to data (1), as in SiT. dead_variance: half of the output rows may be a
    variance that nothing uses. grouped_blocks: MDTv2 names its blocks in three groups.
    """

    objective: Mapping[str, Any]
    options: Mapping[str, Any] = field(default_factory=dict)
    backbone: str = "DiT"
    plugin: str | None = None
    training_only: Mapping[str, str] = field(default_factory=dict)
    backward_time: bool = False
    dead_variance: bool = False
    grouped_blocks: bool = False


MDT_OPTIONS = {"learn_sigma": True, "position": "learned", **DECODER}
DIT = Layout(DDPM, {"learn_sigma": True})
LAYOUTS = {
    "dit": DIT,
    "fast-dit": DIT,
    "sit": Layout(VELOCITY, backward_time=True, dead_variance=True),
    "repa": Layout(VELOCITY, plugin="repa", training_only={"projectors.": "projectors."}),
    "mdt": Layout(DDPM, MDT_OPTIONS, "MDTBackbone", "mdt", SIDE_INTERPOLATER),
    "mdtv2": Layout(
        DDPM | {"min_snr": 5},
        MDT_OPTIONS | {"decoder_layers": 4, "skips": True},
        "MDTBackbone",
        "mdt",
        SIDE_INTERPOLATER,
        grouped_blocks=True,
    ),
    "tread": Layout(EDM),
}


@dataclass(frozen=True)
class Architecture:
    """A family and the settings that its networks have in diffx."""

    family: str
    settings: dict[str, Any]

    @property
    def layout(self) -> Layout:
        return LAYOUTS[self.family]

    def build(self) -> Any:
        """The backbone, freshly initialised."""
        return getattr(backbones, self.layout.backbone)(**self.settings)


def parse_architecture(name: str, changes: Mapping[str, Any] | None = None) -> Architecture:
    """ "sit-xl-2" -> SiT-XL/2 for ImageNet 256 latents, with `changes` of the settings ("input_size": 64 for 512 px).

    Raises:
        DiffxError: no such family, size, patch or setting.
    """
    family, size, patch = (*name.lower().rsplit("-", 2), "", "")[:3]
    if family not in LAYOUTS or size not in SIZES or patch not in ("1", "2", "4", "8"):
        raise DiffxError(
            f"--as {name} is not known; it is FAMILY-SIZE-PATCH, for instance sit-xl-2, with one of "
            f"{', '.join(LAYOUTS)}, one of {', '.join(SIZES)}, and 1, 2, 4 or 8."
        )
    settings = {**IMAGENET, "patch_size": int(patch), **SIZES[size], **PLAIN, **LAYOUTS[family].options}
    if family == "mdtv2" and size == "s":
        settings["decoder_layers"] = 6
    for key, value in (changes or {}).items():
        if key not in settings:
            raise DiffxError(f"{key} is not a setting of a backbone; there are: {', '.join(settings)}.")
        if type(value) is not type(settings[key]):
            raise DiffxError(f"{key}={value} is not of the kind of {key}={settings[key]}.")
    return Architecture(family, settings | dict(changes or {}))


def check_layout(settings: Mapping[str, Any], objective: Mapping[str, Any], family: str) -> None:
    """Refuse to write a model in a family's layout that has no place for its options, or is for another objective.

    Raises:
        DiffxError: says each setting that does not fit, or that there is no such family.
    """
    if family not in LAYOUTS:
        raise DiffxError(f"--as {family} is not known; type one of {', '.join(LAYOUTS)}, diffusers.")
    layout = LAYOUTS[family]
    wanted = PLAIN | dict(layout.options)
    if "decoder_layers" in wanted and settings.get("decoder_layers"):
        wanted["decoder_layers"] = settings["decoder_layers"]  # MDT has had several
    given = {key: settings.get(key, PLAIN.get(key)) for key in dict.fromkeys([*wanted, *DECODER, *PLAIN])}
    wrong = [
        f"backbone.{key}={value} "
        + (f"where {family} has {wanted[key]}" if key in wanted else f"which {family} has not")
        for key, value in given.items()
        if value != wanted.get(key)
    ]
    ours, trained_for = objective.get("_target_"), layout.objective["_target_"]
    if ours not in (None, trained_for):
        wrong.append(f"objective {ours} where {family} has {trained_for}")
    if wrong:
        raise DiffxError(f"This model cannot be written as {family}: {'; '.join(wrong)}.")


def setting_changes(arguments: Sequence[str]) -> dict[str, Any]:
    """KEY=VALUE arguments as settings: whole numbers, true, false or words."""
    changes: dict[str, Any] = {}
    for argument in arguments:
        key, equals, value = argument.partition("=")
        if not equals:
            raise DiffxError(f"{argument} is not KEY=VALUE; type for instance input_size=64.")
        words = {"true": True, "false": False}
        changes[key] = int(value) if value.isdigit() else words.get(value, value)
    return changes
