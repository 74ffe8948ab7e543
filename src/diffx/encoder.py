"""Frozen vision encoders: teachers that live outside the module tree and are shared by name."""

from dataclasses import dataclass

from diffx.errors import DiffxError


@dataclass(frozen=True)
class EncoderSpec:
    """What is known of an encoder without loading it.

    dim: width of its tokens. stride: pixels of the image that a token covers (REPA runs DINOv2 on 224 px for an image
    of 256, so that its 14-pixel patches cover 16 pixels of the image). pooled: a grid that is a whole number of times
    finer than the backbone's may be average-pooled. family, training: what it is kin to.
    """

    dim: int
    stride: int
    timm: str | None
    family: str
    training: str
    pooled: bool = False


SPECS = {
    "embedded": EncoderSpec(128, 2, None, "diffx-embedded", "self-supervised", pooled=True),
    "dinov2_vits14": EncoderSpec(384, 16, "vit_small_patch14_dinov2.lvd142m", "dinov2", "self-supervised"),
    "dinov2_vitb14": EncoderSpec(768, 16, "vit_base_patch14_dinov2.lvd142m", "dinov2", "self-supervised"),
    "dinov2_vitl14": EncoderSpec(1024, 16, "vit_large_patch14_dinov2.lvd142m", "dinov2", "self-supervised"),
    "dinov2_vitg14": EncoderSpec(1536, 16, "vit_giant_patch14_dinov2.lvd142m", "dinov2", "self-supervised"),
}


def encoder_spec(name: str) -> EncoderSpec:
    """The facts of encoder `name`. Raises DiffxError for an unknown one."""
    if name not in SPECS:
        raise DiffxError(f"encoder={name} is not known; type one of {', '.join(SPECS)}.")
    return SPECS[name]


def check_grid(spec: EncoderSpec, name: str, image_size: int, side: int) -> None:
    """Refuse an encoder whose tokens on images of `image_size` pixels cannot be matched with the backbone's side².

    Raises:
        DiffxError: says the two grids and what to change.
    """
    grid = image_size // spec.stride
    fits = grid == side or (spec.pooled and grid >= side and grid % side == 0)
    if not fits:
        raise DiffxError(
            f"encoder {name} gives {grid}x{grid} tokens for images of {image_size} pixels, which cannot be matched "
            f"with the backbone's {side}x{side}; change backbone.patch_size, or take another encoder."
        )
