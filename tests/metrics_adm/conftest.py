"""FID's Inception with random weights in the published layout. Its batch norms hold the statistics of images, as those
of a trained one do, else features would be almost constant."""

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from diffx.data import Shapes
from diffx.features.inception import Conv, Inception


def calibrate(network: Inception, images: Tensor) -> None:
    """Random weights, and running statistics of these images, layer by layer in one forward."""
    rng = torch.Generator().manual_seed(0)
    for conv in (module for module in network.modules() if isinstance(module, Conv)):
        fan = conv.conv.weight[0].numel()
        conv.conv.weight.copy_(torch.randn(conv.conv.weight.shape, generator=rng) * (2 / fan) ** 0.5)
        conv.bn.weight.copy_(torch.rand(conv.bn.weight.shape, generator=rng) * 0.4 + 0.8)
        conv.bn.bias.copy_(torch.randn(conv.bn.bias.shape, generator=rng) * 0.2)
        conv.conv.register_forward_hook(keep_statistics(conv.bn))
    network.fc.weight.copy_(torch.randn(network.fc.weight.shape, generator=rng) * 0.2)
    network.fc.bias.copy_(torch.randn(network.fc.bias.shape, generator=rng))
    network(images)
    for conv in (module for module in network.modules() if isinstance(module, Conv)):
        conv.conv._forward_hooks.clear()


def keep_statistics(norm: nn.Module):
    def hook(module: nn.Module, inputs: object, out: Tensor) -> None:
        norm.running_mean.copy_(out.mean(dim=(0, 2, 3)))
        norm.running_var.copy_(out.var(dim=(0, 2, 3)))

    return hook


@pytest.fixture(scope="session")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("home")


@pytest.fixture(scope="session")
def real(home: Path) -> Tensor:
    """16 held-in images, uint8 (16, 3, 32, 32)."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DIFFX_HOME", str(home))
        return Shapes(count=16).batch(torch.arange(16))["image"]


@pytest.fixture(scope="session")
def fake(real: Tensor) -> Tensor:
    """12 worse images."""
    noise = torch.randn(real[:12].shape, generator=torch.Generator().manual_seed(1))
    return (real[:12] + 40 * noise).clamp(0, 255).to(torch.uint8)


@pytest.fixture(scope="session")
def weights(home: Path, real: Tensor, fake: Tensor) -> Path:
    """The file of weights."""
    network = Inception()
    with torch.no_grad():
        calibrate(network, torch.cat([real[:3], fake[:3]]))
    file = home / "inception.pth"
    torch.save(dict(network.state_dict()), file)
    return file


@pytest.fixture(scope="session")
def network(weights: Path) -> Inception:
    from diffx.features.inception import load_inception

    return load_inception(str(weights))[0]
