"""Frozen vision encoders: teachers that live outside the module tree and are shared by name."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from diffx.errors import DiffxError
from diffx.frozen.untrained import RANDOM
from diffx.frozen.vision import CLIP, HALF, VisionModel, find_weights

if TYPE_CHECKING:
    pass


@dataclass(frozen=True)
class EncoderSpec:
    """What is known of an encoder without loading it.

    dim: width of its tokens. stride: pixels of the image that a token covers (REPA runs DINOv2 on 224 px for an image
    of 256, so that its 14-pixel patches cover 16 pixels of the image). pooled: a grid that is a whole number of times
    finer than the backbone's may be average-pooled. family, training: what it is kin to. model: what timm runs; None
    for the embedded one. class_token: whether it has one; the mean token is that of the embedded one.
    """

    dim: int
    stride: int
    model: VisionModel | None
    family: str
    training: str
    pooled: bool = False
    class_token: bool = True


def _vit(dim: int, name: str, patch: int, family: str, **settings: object) -> EncoderSpec:
    training = "image-text" if family in ("clip", "siglip") else "self-supervised"
    model = VisionModel(name, patch, **settings)  # type: ignore[arg-type]
    return EncoderSpec(dim, 16, model, family, training, class_token=family not in ("siglip", "ijepa"))


def _dinov2(dim: int, size: str) -> EncoderSpec:
    return _vit(dim, f"vit_{size}_dinov2.lvd142m", 14, "dinov2")


def _dinov3(dim: int, size: str) -> EncoderSpec:
    return _vit(dim, f"vit_{size}_patch16_dinov3.lvd1689m", 16, "dinov3")


def _mocov3(dim: int, size: str, *arguments: tuple[str, int]) -> EncoderSpec:
    keys = "module.base_encoder."
    return _vit(dim, f"vit_{size}_patch16_224", 16, "mocov3", keys=keys, arguments=arguments)


SPECS = {
    "embedded": EncoderSpec(128, 2, None, "diffx-embedded", "self-supervised", pooled=True),
    "dinov2_vits14": _dinov2(384, "small_patch14"),
    "dinov2_vitb14": _dinov2(768, "base_patch14"),
    "dinov2_vitl14": _dinov2(1024, "large_patch14"),
    "dinov2_vitg14": _dinov2(1536, "giant_patch14"),
    "dinov2_vits14_reg": _dinov2(384, "small_patch14_reg4"),
    "dinov2_vitb14_reg": _dinov2(768, "base_patch14_reg4"),
    "dinov2_vitl14_reg": _dinov2(1024, "large_patch14_reg4"),
    "dinov2_vitg14_reg": _dinov2(1536, "giant_patch14_reg4"),
    "dinov3_vits16": _dinov3(384, "small"),
    "dinov3_vitb16": _dinov3(768, "base"),
    "dinov3_vitl16": _dinov3(1024, "large"),
    "mae_vitb16": _vit(768, "vit_base_patch16_224.mae", 16, "mae", final_norm=False),
    "mae_vitl16": _vit(1024, "vit_large_patch16_224.mae", 16, "mae", final_norm=False),
    "clip_vitl14": _vit(
        1024, "vit_large_patch14_clip_quickgelu_224.openai", 14, "clip", colours=CLIP, resize_first=True
    ),
    "siglip_vitb16": _vit(768, "vit_base_patch16_siglip_256.webli", 16, "siglip", colours=HALF, resize_first=True),
    "siglip2_vitb16": _vit(768, "vit_base_patch16_siglip_256.v2_webli", 16, "siglip", colours=HALF, resize_first=True),
    "ijepa_vith14": _vit(1280, "vit_huge_patch14_gap_224.in1k_ijepa", 14, "ijepa"),
    "mocov3_vits16": _mocov3(384, "small", ("num_heads", 12)),
    "mocov3_vitb16": _mocov3(768, "base"),
    "mocov3_vitl16": _mocov3(1024, "large"),
    RANDOM: EncoderSpec(192, 16, VisionModel("vit_tiny_patch16_224", 16), RANDOM, "none"),
}


def encoder_spec(name: str) -> EncoderSpec:
    """The facts of encoder `name`. Raises DiffxError for an unknown one."""
    if name not in SPECS:
        raise DiffxError(f"encoder={name} is not known; type one of {', '.join(SPECS)}.")
    return SPECS[name]


def find_encoder(name: str) -> None:
    """Raises DiffxError where the weights of encoder `name` are neither here nor to be had; nothing is loaded."""
    spec = encoder_spec(name)
    if spec.model is not None and name != RANDOM:
        find_weights(name, spec.model)


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
