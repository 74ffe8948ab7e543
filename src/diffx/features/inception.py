"""The Inception of FID: the network of 2015-12-05 that the ADM suite runs in TensorFlow, in PyTorch.

Weights are the published port, a plain state dict of 472 tensors that torch-fidelity and pytorch-fid share. It differs
from torchvision's Inception v3: average pools leave the padding out of the mean, the last block pools by maximum, and
there are 1008 classes (Heusel et al. 2017, arXiv:1706.08500).
"""

import hashlib
import os
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from diffx.errors import DiffxError
from diffx.features.exact import exact_float32
from diffx.frozen.untrained import RANDOM, make_untrained
from diffx.store.weights import read_weights, weights_folder

NAMES = ("pt_inception-2015-12-05-6726825d.pth", "weights-inception-2015-12-05-6726825d.pth")
URL = f"https://github.com/mseitzer/pytorch-fid/releases/download/fid_weights/{NAMES[0]}"
SHA256 = "6726825d"  # how the published file's begins
POOL_DIM, SPATIAL_DIM, CLASSES = 2048, 7 * 17 * 17, 1008
EDGE = 299
SPATIAL_CHANNELS = 7


class InceptionFeatures(NamedTuple):
    """pool (B, 2048): FID's. spatial (B, 2023): sFID's, row by row with channels last, as ADM's references have them.
    logits (B, 1008): the Inception Score's, without the last layer's bias. All float32."""

    pool: Tensor
    spatial: Tensor
    logits: Tensor


class Inception(nn.Module):
    """uint8 images (B, 1 or 3, H, W) to InceptionFeatures. Frozen, and in full float32: no TF32, no autocast."""

    def __init__(self) -> None:
        super().__init__()
        self.Conv2d_1a_3x3 = Conv(3, 32, 3, stride=2, padded=False)
        self.Conv2d_2a_3x3 = Conv(32, 32, 3, padded=False)
        self.Conv2d_2b_3x3 = Conv(32, 64, 3)
        self.Conv2d_3b_1x1 = Conv(64, 80, 1)
        self.Conv2d_4a_3x3 = Conv(80, 192, 3, padded=False)
        self.Mixed_5b, self.Mixed_5c, self.Mixed_5d = Grid35(192, 32), Grid35(256, 64), Grid35(288, 64)
        self.Mixed_6a = To17(288)
        self.Mixed_6b, self.Mixed_6c = Grid17(128), Grid17(160)
        self.Mixed_6d, self.Mixed_6e = Grid17(160), Grid17(192)
        self.Mixed_7a = To8(768)
        self.Mixed_7b, self.Mixed_7c = Grid8(1280, mean_pool), Grid8(2048, max_pool_same)
        self.fc = nn.Linear(POOL_DIM, CLASSES)
        self.eval().requires_grad_(False)

    @torch.no_grad()
    def forward(self, images: Tensor) -> InceptionFeatures:
        """Raises DiffxError for anything but uint8 images of 1 or 3 channels."""
        if images.dtype != torch.uint8 or images.ndim != 4 or images.shape[1] not in (1, 3):
            found = f"{images.dtype} {tuple(images.shape)}"
            raise DiffxError(f"Inception takes uint8 images (B, 1 or 3, H, W), and these are {found}.")
        with exact_float32(images.device):
            return self._features((resize_like_tensorflow(images.expand(-1, 3, -1, -1), EDGE) - 128) / 128)

    def _features(self, x: Tensor) -> InceptionFeatures:
        x = self.Conv2d_2b_3x3(self.Conv2d_2a_3x3(self.Conv2d_1a_3x3(x)))
        x = self.Conv2d_4a_3x3(self.Conv2d_3b_1x1(max_pool(x)))
        x = self.Mixed_5d(self.Mixed_5c(self.Mixed_5b(max_pool(x))))
        x = self.Mixed_6c(self.Mixed_6b(self.Mixed_6a(x)))
        # TensorFlow's node mixed_6/conv is the first branch of the block that PyTorch calls Mixed_6d.
        spatial = self.Mixed_6d.branch1x1(x)[:, :SPATIAL_CHANNELS].permute(0, 2, 3, 1).flatten(1)
        x = self.Mixed_7a(self.Mixed_6e(self.Mixed_6d(x)))
        pool = self.Mixed_7c(self.Mixed_7b(x)).mean(dim=(2, 3))
        return InceptionFeatures(pool, spatial, F.linear(pool, self.fc.weight))


class Conv(nn.Module):
    """Convolution, frozen batch norm, ReLU."""

    def __init__(
        self, inputs: int, outputs: int, kernel: int | tuple[int, int], stride: int = 1, padded: bool = True
    ) -> None:
        super().__init__()
        height, width = (kernel, kernel) if isinstance(kernel, int) else kernel
        padding = (height // 2, width // 2) if padded else (0, 0)
        self.conv = nn.Conv2d(inputs, outputs, (height, width), stride, padding, bias=False)
        self.bn = FrozenBatchNorm(outputs)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.bn(self.conv(x)))


class FrozenBatchNorm(nn.Module):
    """Batch norm by stored statistics, with the four tensors of the published file (torch's own counts batches too)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.ones(channels)), nn.Parameter(torch.zeros(channels))
        self.register_buffer("running_mean", torch.zeros(channels))
        self.register_buffer("running_var", torch.ones(channels))

    def forward(self, x: Tensor) -> Tensor:
        return F.batch_norm(x, self.running_mean, self.running_var, self.weight, self.bias, eps=1e-3)  # type: ignore[arg-type]


class Grid35(nn.Module):
    """A block on the 35x35 grid: `inputs` channels to 224 + `pooled`."""

    def __init__(self, inputs: int, pooled: int) -> None:
        super().__init__()
        self.branch1x1 = Conv(inputs, 64, 1)
        self.branch5x5_1, self.branch5x5_2 = Conv(inputs, 48, 1), Conv(48, 64, 5)
        self.branch3x3dbl_1, self.branch3x3dbl_2 = Conv(inputs, 64, 1), Conv(64, 96, 3)
        self.branch3x3dbl_3 = Conv(96, 96, 3)
        self.branch_pool = Conv(inputs, pooled, 1)

    def forward(self, x: Tensor) -> Tensor:
        five = self.branch5x5_2(self.branch5x5_1(x))
        three = self.branch3x3dbl_3(self.branch3x3dbl_2(self.branch3x3dbl_1(x)))
        return torch.cat([self.branch1x1(x), five, three, self.branch_pool(mean_pool(x))], dim=1)


class To17(nn.Module):
    """From the 35x35 grid to the 17x17 one: `inputs` channels to 480 + `inputs`."""

    def __init__(self, inputs: int) -> None:
        super().__init__()
        self.branch3x3 = Conv(inputs, 384, 3, stride=2, padded=False)
        self.branch3x3dbl_1, self.branch3x3dbl_2 = Conv(inputs, 64, 1), Conv(64, 96, 3)
        self.branch3x3dbl_3 = Conv(96, 96, 3, stride=2, padded=False)

    def forward(self, x: Tensor) -> Tensor:
        three = self.branch3x3dbl_3(self.branch3x3dbl_2(self.branch3x3dbl_1(x)))
        return torch.cat([self.branch3x3(x), three, max_pool(x)], dim=1)


class Grid17(nn.Module):
    """A block on the 17x17 grid, 768 channels to 768, its 7x7 convolutions factorised over `width` channels."""

    def __init__(self, width: int) -> None:
        super().__init__()
        row, column = (1, 7), (7, 1)
        self.branch1x1 = Conv(768, 192, 1)
        self.branch7x7_1, self.branch7x7_2 = Conv(768, width, 1), Conv(width, width, row)
        self.branch7x7_3 = Conv(width, 192, column)
        self.branch7x7dbl_1, self.branch7x7dbl_2 = Conv(768, width, 1), Conv(width, width, column)
        self.branch7x7dbl_3, self.branch7x7dbl_4 = Conv(width, width, row), Conv(width, width, column)
        self.branch7x7dbl_5 = Conv(width, 192, row)
        self.branch_pool = Conv(768, 192, 1)

    def forward(self, x: Tensor) -> Tensor:
        once = self.branch7x7_3(self.branch7x7_2(self.branch7x7_1(x)))
        twice = self.branch7x7dbl_3(self.branch7x7dbl_2(self.branch7x7dbl_1(x)))
        twice = self.branch7x7dbl_5(self.branch7x7dbl_4(twice))
        return torch.cat([self.branch1x1(x), once, twice, self.branch_pool(mean_pool(x))], dim=1)


class To8(nn.Module):
    """From the 17x17 grid to the 8x8 one: `inputs` channels to 512 + `inputs`."""

    def __init__(self, inputs: int) -> None:
        super().__init__()
        self.branch3x3_1, self.branch3x3_2 = Conv(inputs, 192, 1), Conv(192, 320, 3, stride=2, padded=False)
        self.branch7x7x3_1, self.branch7x7x3_2 = Conv(inputs, 192, 1), Conv(192, 192, (1, 7))
        self.branch7x7x3_3, self.branch7x7x3_4 = Conv(192, 192, (7, 1)), Conv(192, 192, 3, stride=2, padded=False)

    def forward(self, x: Tensor) -> Tensor:
        seven = self.branch7x7x3_2(self.branch7x7x3_1(x))
        seven = self.branch7x7x3_4(self.branch7x7x3_3(seven))
        return torch.cat([self.branch3x3_2(self.branch3x3_1(x)), seven, max_pool(x)], dim=1)


class Grid8(nn.Module):
    """A block on the 8x8 grid: `inputs` channels to 2048. The two of them differ in how they pool."""

    def __init__(self, inputs: int, pool: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        row, column = (1, 3), (3, 1)
        self.pool = pool
        self.branch1x1 = Conv(inputs, 320, 1)
        self.branch3x3_1 = Conv(inputs, 384, 1)
        self.branch3x3_2a, self.branch3x3_2b = Conv(384, 384, row), Conv(384, 384, column)
        self.branch3x3dbl_1, self.branch3x3dbl_2 = Conv(inputs, 448, 1), Conv(448, 384, 3)
        self.branch3x3dbl_3a, self.branch3x3dbl_3b = Conv(384, 384, row), Conv(384, 384, column)
        self.branch_pool = Conv(inputs, 192, 1)

    def forward(self, x: Tensor) -> Tensor:
        once, twice = self.branch3x3_1(x), self.branch3x3dbl_2(self.branch3x3dbl_1(x))
        parts = [self.branch1x1(x), self.branch3x3_2a(once), self.branch3x3_2b(once)]
        parts += [self.branch3x3dbl_3a(twice), self.branch3x3dbl_3b(twice), self.branch_pool(self.pool(x))]
        return torch.cat(parts, dim=1)


def max_pool(x: Tensor) -> Tensor:
    return F.max_pool2d(x, 3, stride=2)


def max_pool_same(x: Tensor) -> Tensor:
    return F.max_pool2d(x, 3, stride=1, padding=1)


def mean_pool(x: Tensor) -> Tensor:
    return F.avg_pool2d(x, 3, stride=1, padding=1, count_include_pad=False)


def resize_like_tensorflow(images: Tensor, edge: int) -> Tensor:
    """Images (B, C, H, W) to float32 (B, C, edge, edge) as TensorFlow 1's ResizeBilinear does with its defaults.

    Output pixel i reads at i·H/edge: corners are not aligned, pixels have no centres, and nothing is smoothed before
    an image is made smaller. Other resizes move FID.
    """
    x = images.float()
    for dim in (3, 2):
        size = x.shape[dim]
        # The scale is rounded to float32 before it is multiplied, as TensorFlow does.
        place = torch.arange(edge, device=x.device) * torch.tensor(size / edge, device=x.device)
        low = place.long()
        share = (place - low).view(-1, *[1] * (3 - dim))
        here = x.index_select(dim, low)
        x = here + (x.index_select(dim, (low + 1).clamp(max=size - 1)) - here) * share
    return x


def load_inception(path: str | None = None) -> tuple[Inception, str]:
    """The network with its weights, and how the SHA-256 of their file begins (8 hex digits). Nothing is downloaded.
    "random": weights that nobody has trained.

    Raises:
        DiffxError: the file is nowhere to be found, or is not of this network.
    """
    if path == RANDOM:
        return make_untrained("eval.metrics.weights", Inception).eval().requires_grad_(False), RANDOM
    file = find_weights(path)
    with file.open("rb") as opened:
        sha256 = hashlib.file_digest(opened, "sha256").hexdigest()[: len(SHA256)]
    if sha256 != SHA256:
        print(f"The SHA-256 of {file} begins with {sha256}, not {SHA256}: these are not the published weights.")
    with torch.device("meta"):
        network = Inception()
    weights = read_weights(file)
    for name, expected in network.state_dict().items():
        found = weights.get(name)
        if not isinstance(found, Tensor) or found.shape != expected.shape:
            shape = tuple(found.shape) if isinstance(found, Tensor) else "absent"
            raise DiffxError(f"{file} is not of FID's Inception: {name} is {shape} and not {tuple(expected.shape)}.")
    network.load_state_dict({name: weights[name].float() for name in network.state_dict()}, assign=True)
    return network.requires_grad_(False), sha256


def find_weights(path: str | None = None) -> Path:
    """The weights' file: `path`, $DIFFX_INCEPTION_WEIGHTS, the weights folder or torch.hub's cache, in this order.

    Raises:
        DiffxError: says the ways to provide it.
    """
    given = path or os.environ.get("DIFFX_INCEPTION_WEIGHTS")
    if given:
        file = Path(given).expanduser()
        if not file.is_file():
            setting = "eval.metrics.weights" if path else "DIFFX_INCEPTION_WEIGHTS"
            raise DiffxError(f"{setting}={given} is not a file; type where the weights of FID's Inception are.")
        return file
    folders = (weights_folder(), Path(torch.hub.get_dir()) / "checkpoints")
    for file in (folder / name for folder in folders for name in NAMES):
        if file.is_file():
            return file
    raise DiffxError(
        f"The weights of FID's Inception are not here; download {URL} (95 MB) and put it in {folders[0]} or "
        f"{folders[1]}, or set eval.metrics.weights or DIFFX_INCEPTION_WEIGHTS to where it is, or measure without it "
        "(eval=embedded)."
    )
