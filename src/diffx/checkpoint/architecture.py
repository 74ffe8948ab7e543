"""The architectures whose files diffx reads, by name: "sit-xl-2" is SiT, size XL, patches of 2."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from diffx import backbone as backbones
from diffx.checkpoint.layouts import LAYOUTS, Layout
from diffx.errors import DiffxError

PATCHES = ("1", "2", "4", "8", "16", "32")


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
    if family not in LAYOUTS or patch not in PATCHES or size not in LAYOUTS[family].sizes:
        sizes = LAYOUTS[family].sizes if family in LAYOUTS else LAYOUTS["dit"].sizes
        raise DiffxError(
            f"--as {name} is not known; it is FAMILY-SIZE-PATCH, for instance sit-xl-2, with one of "
            f"{', '.join(LAYOUTS)}, one of {', '.join(sizes)}, and {', '.join(PATCHES[:-1])} or {PATCHES[-1]}."
        )
    layout = LAYOUTS[family]
    settings = {**layout.latents, "patch_size": int(patch), **layout.sizes[size], **layout.options}
    for key, value in (changes or {}).items():
        if key not in settings:
            raise DiffxError(f"{key} is not a setting of a backbone; there are: {', '.join(settings)}.")
        if type(value) is not type(settings[key]):
            raise DiffxError(f"{key}={value} is not of the kind of {key}={settings[key]}.")
    return Architecture(family, settings | dict(changes or {}))


def known_layout(family: str) -> Layout:
    """Raises DiffxError where there is no such family."""
    if family not in LAYOUTS:
        raise DiffxError(f"--as {family} is not known; type one of {', '.join(LAYOUTS)}, diffusers.")
    return LAYOUTS[family]


def check_layout(
    backbone: str, settings: Mapping[str, Any], objective: Mapping[str, Any], layout: Layout, typed: str
) -> None:
    """Refuse to write a model in a layout that has no place for its options, or is for another objective.

    typed: what the user called the layout.

    Raises:
        DiffxError: says each setting that does not fit.
    """
    wrong = _differences(backbone, settings, objective, layout, typed)
    if wrong:
        raise DiffxError(f"This model cannot be written as {typed}: {'; '.join(wrong)}.")


def _differences(
    backbone: str, settings: Mapping[str, Any], objective: Mapping[str, Any], layout: Layout, family: str
) -> list[str]:
    """What keeps a model from being one of this layout, each in words."""
    if backbone != layout.backbone:
        return [f"it is a {backbone}, and {family} has a {layout.backbone}"]
    wrong = [
        f"backbone.{key}={settings[key]} where {family} has {wanted}"
        for key, wanted in layout.options.items()
        if key not in layout.free and settings.get(key, wanted) != wanted
    ]
    if settings.get("two_times") and "two_times" not in layout.options:
        wrong.append(f"backbone.two_times=true, for which {family} has no embedder")
    ours, trained_for = objective.get("_target_"), layout.objective["_target_"]
    if ours not in (None, trained_for):
        wrong.append(f"objective {ours} where {family} has {trained_for}")
    return wrong


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
