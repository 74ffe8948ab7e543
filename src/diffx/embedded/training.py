"""How the small networks learn: VICReg, classification, restoration, reconstruction; 400 steps each."""

import sys
from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from rich.progress import track
from torch import Tensor, nn

from diffx.embedded.architecture import ENCODER_DIM, FEATURE_DIM, FeatureNetwork, SmallAutoencoder, TokenEncoder
from diffx.pixels.values import signed

STEPS, BATCH = 400, 128


def vicreg(network: TokenEncoder, images: Tensor) -> None:
    """Two views of an image alike, every feature alive, features uncorrelated: weights 25, 25, 1."""
    head = nn.Sequential(nn.Linear(ENCODER_DIM, 256), nn.ReLU(), nn.Linear(256, 256))

    def loss(chosen: Tensor) -> Tensor:
        x = signed(images[chosen])
        a, b = (head(network.pooled(_view(x))) for _ in range(2))
        return 25 * F.mse_loss(a, b) + _spread(a) + _spread(b)

    descend("encoder", len(images), [*network.parameters(), *head.parameters()], loss)


def classify(network: FeatureNetwork, images: Tensor, labels: Tensor, classes: int) -> None:
    head = nn.Linear(FEATURE_DIM, classes)

    def loss(chosen: Tensor) -> Tensor:
        x = moved(signed(images[chosen]), 0.1)
        return F.cross_entropy(head(network.trunk(x)), labels[chosen])

    descend("classifier", len(images), [*network.parameters(), *head.parameters()], loss)


def restore(network: FeatureNetwork, images: Tensor) -> None:
    channels, size = images.shape[1], images.shape[2]
    decoder = nn.Sequential(nn.Linear(FEATURE_DIM, 512), nn.ReLU(), nn.Linear(512, channels * size * size))

    def loss(chosen: Tensor) -> Tensor:
        x = signed(images[chosen])
        holes = torch.rand(len(x), 1, 4, 4).repeat_interleave(size // 4, 2).repeat_interleave(size // 4, 3) < 0.25
        damaged = (x + 0.3 * torch.randn_like(x)).masked_fill(holes, 0)
        return F.mse_loss(decoder(network.trunk(damaged)).view_as(x), x)

    descend("restorer", len(images), [*network.parameters(), *decoder.parameters()], loss)


def reconstruct(network: SmallAutoencoder, images: Tensor) -> None:
    """Absolute and squared error of what comes back, and 1e-4 of the posterior's divergence from a normal."""

    def loss(chosen: Tensor) -> Tensor:
        x = signed(images[chosen])
        mean, std = network.encode(x).chunk(2, dim=1)
        decoded = network.decode(mean + std * torch.randn_like(mean))
        divergence = 0.5 * (mean.square() + std.square() - 1 - 2 * std.log()).mean()
        return F.l1_loss(decoded, x) + F.mse_loss(decoded, x) + 1e-4 * divergence

    descend("autoencoder", len(images), list(network.parameters()), loss)


def descend(
    role: str,
    count: int,
    parameters: Sequence[nn.Parameter],
    loss: Callable[[Tensor], Tensor],
    steps: int | None = None,
) -> None:
    """AdamW, warmed up and with a cosine decay, on `loss` of random batches of the indices below `count`. steps: STEPS
    unless given."""
    steps = steps or STEPS
    optimizer = torch.optim.AdamW(parameters, weight_decay=1e-2)
    # Without the warm-up the classifier of shapes came out at 62 % instead of 91 % (one seed, linear probe).
    rate = torch.optim.lr_scheduler.OneCycleLR(optimizer, 2e-3, steps, pct_start=0.15, cycle_momentum=False)
    for _ in track(range(steps), f"training the embedded {role}", transient=True, disable=not sys.stdout.isatty()):
        value = loss(torch.randint(count, (BATCH,)))
        optimizer.zero_grad()
        value.backward()
        optimizer.step()
        rate.step()


def _spread(z: Tensor) -> Tensor:
    """VICReg's variance and covariance terms of one of the two views, z (B, D); the variances of both are averaged."""
    z = z - z.mean(0)
    alive = F.relu(1 - (z.var(0) + 1e-4).sqrt()).mean()
    covariance = z.T @ z / (len(z) - 1)
    off_diagonal = covariance.square().sum() - covariance.diagonal().square().sum()
    return 12.5 * alive + off_diagonal / z.shape[1]


def _view(x: Tensor) -> Tensor:
    """An augmented view of images x (B, C, H, W): moved, recoloured, noisy, with one patch erased."""
    x = moved(x, 0.2)
    gain = 1 + 0.4 * (2 * torch.rand(len(x), x.shape[1], 1, 1) - 1)
    x = x * gain + 0.2 * (2 * torch.rand(len(x), x.shape[1], 1, 1) - 1) + 0.1 * torch.randn_like(x)
    size, hole = x.shape[-1], x.shape[-1] // 4
    row, column = torch.randint(size - hole + 1, (2, len(x), 1, 1))
    place = torch.arange(size)
    inside = ((place[:, None] - row) % size < hole) & ((place[None, :] - column) % size < hole)
    return x.masked_fill(inside[:, None], 0)


def moved(x: Tensor, amount: float) -> Tensor:
    """Each image turned, scaled and shifted by up to `amount` (radians; a share of the size)."""
    angle, scale, shift = (amount * (2 * torch.rand(3, len(x)) - 1)).unbind()
    cos, sin = angle.cos() * (1 + scale), angle.sin() * (1 + scale)
    rows = torch.stack([cos, -sin, shift, sin, cos, shift.roll(1)], dim=1).view(-1, 2, 3)
    grid = F.affine_grid(rows, list(x.shape), align_corners=False)
    return F.grid_sample(x, grid, padding_mode="border", align_corners=False)
