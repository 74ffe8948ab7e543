"""DINOv2's class token as a feature space for Fréchet and kernel distances, beside Inception's.

Stein et al. 2023 (arXiv 2306.04675) find that distances in it agree with people's judgement where FID does not. As in
their code (dgm-eval) and in EDM2's: ViT-L/14, the class token after the last LayerNorm, images of any size resized to
224 pixels by bicubic interpolation with antialiasing, ImageNet's mean and standard deviation, float32. dgm-eval resizes
with Pillow, which rounds to whole levels, and so does this.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from diffx.errors import DiffxError
from diffx.features.exact import exact_float32
from diffx.frozen.encoder import EncoderSpec, encoder_spec, find_encoder
from diffx.frozen.vision import pretrained
from diffx.store.digest import checksum

FAMILY = "dinov2"
SIDE = 16  # tokens along an edge: 224 pixels in patches of 14
NATIVE_SIDE = 37  # of the published position table, for 518 pixels


class DINOv2:
    """uint8 images (B, 1 or 3, H, W) to the class token, float32 (B, D).

    Args:
        name: an encoder of family dinov2, such as "dinov2_vitl14".

    Raises:
        DiffxError: another family, or weights that are not to be found (the sentence says how to provide them).
    """

    def __init__(self, name: str, device: torch.device | str = "cpu", side: int = SIDE) -> None:
        self.name, self.spec = name, _spec(name)
        model = self.spec.model
        assert model is not None
        self.device, self.edge = torch.device(device), model.patch * side
        try:
            network = pretrained(name, model, model.patch * NATIVE_SIDE)
        except DiffxError as error:
            raise DiffxError(f"{error} Or measure without it: type eval.metrics.dinov2=null.") from error
        self.identity = f"{name} {checksum(network.state_dict().values())}"
        table = network.pos_embed.detach()
        network.set_input_size(img_size=self.edge)
        network.pos_embed = torch.nn.Parameter(resampled(table, side, network.num_reg_tokens > 0))
        self._network = network.to(self.device).eval().requires_grad_(False)
        self._mean, self._std = (torch.tensor(c, device=self.device).view(1, 3, 1, 1) for c in model.colours)

    @torch.no_grad()
    def __call__(self, images: Tensor) -> Tensor:
        """Raises DiffxError for anything but uint8 images of 1 or 3 channels."""
        if images.dtype != torch.uint8 or images.ndim != 4 or images.shape[1] not in (1, 3):
            found = f"{images.dtype} {tuple(images.shape)}"
            raise DiffxError(f"{self.name} takes uint8 images (B, 1 or 3, H, W), and these are {found}.")
        with exact_float32(self.device):
            levels = resize_like_pillow(images.to(self.device).expand(-1, 3, -1, -1), self.edge)
            return self._network.forward_features((levels / 255 - self._mean) / self._std)[:, 0]


def look_for_dinov2(name: str) -> None:
    """Raises DiffxError where there are no weights of it; loads nothing."""
    _spec(name)
    try:
        find_encoder(name)
    except DiffxError as error:
        raise DiffxError(f"{error} Or measure without it: type eval.metrics.dinov2=null.") from error


def _spec(name: str) -> EncoderSpec:
    spec = encoder_spec(name)
    if spec.family != FAMILY:
        raise DiffxError(f"eval.metrics.dinov2={name} is no DINOv2; type dinov2_vitl14, or null to go without.")
    return spec


def resize_like_pillow(images: Tensor, edge: int) -> Tensor:
    """uint8 images (B, C, H, W) to whole grey levels in float32 (B, C, edge, edge).

    Pillow resizes rows first, keeps the result as uint8, and then columns: overshoot is cut off twice.
    """
    x = images.float()
    for size in ((x.shape[2], edge), (edge, edge)):
        if x.shape[2:] != size:
            x = F.interpolate(x, size=size, mode="bicubic", antialias=True).round().clamp(0, 255)
    return x


def resampled(table: Tensor, side: int, registers: bool) -> Tensor:
    """A position table (1, [1 +] M², D) for side² tokens, as DINOv2's own code resamples it.

    timm antialiases every table. DINOv2 does so for its models with registers only, and for the others scales by
    (side + 0.1) / M instead of side / M.
    """
    edge = int(table.shape[1] ** 0.5)
    first, patches = table[:, : table.shape[1] - edge**2], table[:, table.shape[1] - edge**2 :]
    grid = patches.unflatten(1, (edge, edge)).permute(0, 3, 1, 2)
    if side == edge:
        return table
    if registers:
        grid = F.interpolate(grid, size=(side, side), mode="bicubic", antialias=True)
    else:
        grid = F.interpolate(grid, scale_factor=((side + 0.1) / edge,) * 2, mode="bicubic")
    return torch.cat([first, grid.flatten(2).transpose(1, 2)], dim=1)
