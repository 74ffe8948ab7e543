"""What keeps an autoencoder an autoencoder: a discriminator of patches, and LPIPS."""

from collections.abc import Mapping
from pathlib import Path

import torch
import torch.nn.functional as F
import torchmetrics
from torch import Tensor, nn
from torchvision.models import vgg

from diffx.errors import DiffxError
from diffx.store.weights import local_file, read_weights, weights_folder

VGG = "vgg16"
STATISTICS = ("running_mean", "running_var", "num_batches_tracked")
TAPS = (3, 8, 15, 22, 29)  # the last ReLU of each of VGG's five stages


class PatchDiscriminator(nn.Module):
    """Images (B, 3, R, R) to a map of logits, one for each patch (Isola et al. 2017; CompVis/taming-transformers'
    network, which REPA-E has).

    BatchNorm is of the batch at hand, on each rank its own, as in the authors' training; it keeps no statistics, since
    a discriminator is asked in training alone.
    width: channels of the first of `layers` strided convolutions; the following have twice as many, at most 8·width.
    """

    def __init__(self, channels: int, width: int = 64, layers: int = 3) -> None:
        super().__init__()
        parts: list[nn.Module] = [nn.Conv2d(channels, width, 4, 2, 1), nn.LeakyReLU(0.2)]  # of which one has a bias
        before = width
        for i in range(1, layers + 1):
            after, stride = width * min(2**i, 8), 2 if i < layers else 1
            norm = nn.BatchNorm2d(after, track_running_stats=False)
            parts += [nn.Conv2d(before, after, 4, stride, 1, bias=False), norm, nn.LeakyReLU(0.2)]
            before = after
        self.main = nn.Sequential(*parts, nn.Conv2d(before, 1, 4, 1, 1))
        for part in self.main:
            if isinstance(part, nn.Conv2d):
                nn.init.normal_(part.weight, std=0.02)
            elif isinstance(part, nn.BatchNorm2d):
                nn.init.normal_(part.weight, 1.0, 0.02)

    def forward(self, x: Tensor) -> Tensor:
        return self.main(x)

    def load(self, file: Path) -> None:
        """The authors' weights, such as sdvae-f8d4-discriminator-ckpt.pt of REPA-E/sdvae.

        Raises:
            DiffxError: the file is not there, or another network's.
        """
        if not file.is_file():
            raise DiffxError(f"end_to_end.discriminator={file} does not exist; type the file, or null for a fresh one.")
        state = {key: w for key, w in read_weights(file).items() if not key.endswith(STATISTICS)}
        try:
            self.load_state_dict(state, strict=True)
        except RuntimeError as error:
            raise DiffxError(
                f"end_to_end.discriminator={file} is not of a discriminator of {self.main[0].out_channels} channels "
                "and these layers; type end_to_end.discriminator_width and .discriminator_layers as it has them."
            ) from error


def hinge(real: Tensor, made: Tensor) -> Tensor:
    """The discriminator's loss, from its logits."""
    return 0.5 * (F.relu(1 - real).mean() + F.relu(1 + made).mean())


def divergence(mean: Tensor, std: Tensor) -> Tensor:
    """KL of a diagonal posterior (B, C, h, w) from the standard normal, summed over a latent, mean over the batch."""
    return 0.5 * (mean.square() + std.square() - 1 - 2 * std.log()).flatten(1).sum(1).mean()


class LPIPS(nn.Module):
    """LPIPS (Zhang et al. 2018) in VGG-16's features: images in [-1, 1] (B, 3, R, R), twice, to distances (B,).

    Between corresponding features, each scaled to length 1 over its channels: weighted squared differences, mean over
    places, summed over five layers. Frozen; of random weights until load().
    """

    shift: Tensor
    scale: Tensor

    def __init__(self) -> None:
        super().__init__()
        layers = vgg.make_layers(vgg.cfgs["D"], batch_norm=False)  # without VGG-16's head of 124 million weights
        self.features = layers[: TAPS[-1] + 1]
        for layer in self.features:
            if isinstance(layer, nn.ReLU):
                layer.inplace = False
        widths = [self.features[depth - 1].out_channels for depth in TAPS]
        self.weights = nn.ParameterList(torch.zeros(1, width, 1, 1) for width in widths)
        self.register_buffer("shift", torch.tensor([-0.030, -0.088, -0.188]).view(1, 3, 1, 1))
        self.register_buffer("scale", torch.tensor([0.458, 0.448, 0.450]).view(1, 3, 1, 1))
        self.eval().requires_grad_(False)

    def load(self, weights: Mapping[str, Tensor], linear: Mapping[str, Tensor]) -> "LPIPS":
        """VGG-16 under torchvision's names, and the five layers' weights under LPIPS' own."""
        own = {key.removeprefix("features."): w for key, w in weights.items() if key.startswith("features.")}
        self.features.load_state_dict(own)
        self.weights.load_state_dict({str(i): linear[f"lin{i}.model.1.weight"] for i in range(len(TAPS))})
        return self

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        total = a.new_zeros(len(a))
        for weight, one, other in zip(self.weights, self._taps(a), self._taps(b), strict=True):
            total = total + (weight * (one - other).square()).sum(1).mean((1, 2))
        return total

    def _taps(self, x: Tensor) -> list[Tensor]:
        x, found = (x - self.shift) / self.scale, []
        for depth, layer in enumerate(self.features):
            x = layer(x)
            if depth in TAPS:
                features = x.float()  # in autocast too
                found.append(features / (features.square().sum(1, keepdim=True) + 1e-8).sqrt())
        return found


def load_lpips() -> LPIPS:
    """LPIPS with VGG-16 from $DIFFX_WEIGHTS/vgg16.pth (torchvision's), and the layers' weights that torchmetrics has.

    Raises:
        DiffxError: VGG-16 is not there, or its file is another network's.
    """
    file = local_file(VGG)
    if file is None:
        raise DiffxError(
            f"end_to_end.perceptual needs VGG-16, which is not here; put torchvision's vgg16-397923af.pth at "
            f"{weights_folder() / VGG}.pth (DIFFX_WEIGHTS sets the folder), or type end_to_end.perceptual=0."
        )
    folder = Path(torchmetrics.__file__).parent / "functional/image/lpips_models"
    try:
        return LPIPS().load(read_weights(file), read_weights(folder / "vgg.pth"))
    except (KeyError, RuntimeError) as error:
        raise DiffxError(f"{file} does not hold the weights of torchvision's VGG-16.") from error
