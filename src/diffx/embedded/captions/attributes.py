"""A network that reads a picture of the captions' data: which shapes are where.

It is the judge of whether samples show what their prompts ask for, as a detector is in GenEval (Ghosh et al. 2023), and
its features are one of the two spaces of the Fréchet distance. It finds each shape where it stands, so that it reads
compositions that it has not learned from: no training picture has a held-out one.
"""

from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from diffx.data.captions import Pictures
from diffx.data.captions.scene import COLOUR, COLOURS, MOST, SHAPES, SIZES
from diffx.embedded.architecture import FEATURE_DIM, FeatureNetwork, convolution
from diffx.embedded.networks import kept, seeded
from diffx.embedded.training import descend
from diffx.pixels.values import signed

VERSION, SEED, STEPS = 1, 5, 700
KINDS = (len(SIZES), len(COLOURS), len(SHAPES))
SEEN = 6
"""Shapes that are read in a picture at most."""
STRIDE, REACH, PEAK = 4, 0.7, 0.4
"""Pixels of a cell; how far around a shape's centre cells are lit, in cells; how much a cell is where one stands."""


class AttributeNetwork(nn.Module):
    """Pictures uint8 (B, 3, H, W) -> what they show, int64 (B, 2 + 6·3): the number of shapes, 1 if they are in a row
    and 0 in a column, and size, colour and outline of each in that order; what stands behind the last means nothing.

    features: a FeatureNetwork, (B, 64).
    """

    def __init__(self) -> None:
        super().__init__()
        trunk = nn.Sequential(
            convolution(3, 32, 2),
            convolution(32, 48),
            convolution(48, FEATURE_DIM, 2),
            convolution(FEATURE_DIM, FEATURE_DIM),
            convolution(FEATURE_DIM, FEATURE_DIM),
        )
        self.features = FeatureNetwork(nn.Sequential(trunk, nn.AdaptiveAvgPool2d(1), nn.Flatten()))
        self.heads = nn.Conv2d(FEATURE_DIM, 1 + sum(KINDS), 1)

    def cells(self, x: Tensor) -> tuple[Tensor, ...]:
        """Of pictures in [-1, 1], logits (B, K, H/4, W/4) of every cell: whether a shape's centre is there, and its
        size, colour and outline."""
        return self.heads(self.features.trunk[0](x)).split((1, *KINDS), dim=1)  # type: ignore[index]

    def forward(self, images: Tensor) -> Tensor:
        lit, *kinds = self.cells(signed(images))
        lit = lit.sigmoid()
        peaks = (lit == F.max_pool2d(lit, 3, 1, 1)) & (lit > PEAK)
        said = torch.stack([kind.argmax(1) for kind in kinds], dim=-1)
        rows = [_read(peak[0].nonzero(), one) for peak, one in zip(peaks, said, strict=True)]
        return torch.stack(rows) if rows else torch.zeros(0, 2 + 3 * SEEN, dtype=torch.long)


def _read(cells: Tensor, said: Tensor) -> Tensor:
    """One picture, from the cells (n, 2) where shapes stand, and what is said of every cell."""
    spread = cells.amax(0) - cells.amin(0) if len(cells) else cells.new_zeros(2)
    row = int(spread[1] >= spread[0])
    cells = cells[cells[:, row].argsort(stable=True)][:SEEN]
    objects = said[cells[:, 0], cells[:, 1]].flatten()
    return torch.cat([cells.new_tensor([len(cells), row]), F.pad(objects, (0, 3 * SEEN - len(objects)))])


def attribute_network(pictures: Pictures) -> AttributeNetwork:
    """The network for these pictures: the one that comes with diffx, or else trained once, and cached."""
    return kept(f"{pictures.name}-attributes", facts(pictures), AttributeNetwork, lambda: train(pictures))


def facts(pictures: Pictures) -> dict[str, Any]:
    """Everything that says which network it is."""
    return {"role": "attributes", "data": pictures.identity, "version": VERSION, "steps": STEPS}


def train(pictures: Pictures) -> tuple[AttributeNetwork, dict[str, Any]]:
    """It, and the share of held-out pictures whose scene it reads in full."""
    images = pictures.batch(torch.arange(len(pictures)))["image"]
    lit, said = targets(pictures)
    with seeded(SEED), torch.enable_grad():
        network = AttributeNetwork()

        def loss(chosen: Tensor) -> Tensor:
            x = signed(images[chosen])
            x = x + 0.1 * torch.rand(len(x), 1, 1, 1) * torch.randn_like(x)  # samples are not clean
            wanted, recoloured = said[chosen], torch.rand(len(x)) < 0.5
            # With its channels exchanged a shape has a colour that it is never trained in, so that it is read in any.
            x[recoloured] = exchange_channels(x[recoloured])
            wanted[recoloured, COLOUR] = -1
            there, *kinds = network.cells(x)
            which = [F.cross_entropy(kind, wanted[:, place], ignore_index=-1) for place, kind in enumerate(kinds)]
            return 10 * F.binary_cross_entropy_with_logits(there[:, 0], lit[chosen]) + sum(which)

        descend("reader of pictures", len(images), list(network.parameters()), loss, STEPS)
    network.eval().requires_grad_(False)
    network.features.standardise(images)
    notes = {"scenes_read": read_in_full(network, pictures)}
    print(f"embedded attributes of {pictures.name}: {notes['scenes_read']:.1%} of held-out scenes are read in full")
    return network, notes


def exchange_channels(x: Tensor) -> Tensor:
    """Pictures (B, 3, H, W), each with its channels in a random order."""
    order = torch.rand(len(x), 3).argsort(1)
    return x.gather(1, order[:, :, None, None].expand_as(x))


def targets(pictures: Pictures) -> tuple[Tensor, Tensor]:
    """Of the training pictures, how much each cell is lit (N, H/4, W/4), and size, colour and outline of the shape that
    lights it (N, 3, H/4, W/4), -1 where it is dark."""
    side = pictures.size // STRIDE
    places, objects = torch.from_numpy(pictures.places()), torch.from_numpy(pictures.scenes.objects)
    centres = (places[:, :, :2] + 1) * side / 2
    cell = torch.arange(side) + 0.5
    along, down = (cell - centres[:, :, place, None] for place in (0, 1))
    distance = along[:, :, None, :].square() + down[:, :, :, None].square()
    there = (torch.arange(MOST) < torch.from_numpy(np.array(pictures.scenes.number))[:, None])[:, :, None, None]
    light, nearest = (torch.exp(-distance / (2 * REACH**2)) * there).max(1)
    said = objects.transpose(1, 2).gather(2, nearest.flatten(1)[:, None].expand(-1, 3, -1)).unflatten(2, (side, side))
    return light, said.where((light > PEAK)[:, None], -1)


def read_in_full(network: AttributeNetwork, pictures: Pictures) -> float:
    """The share of held-out pictures of which all is read as it is."""
    found = torch.cat([network(part) for part in pictures.reference().split(500)])
    number, row, objects = (torch.from_numpy(column) for column in pictures.held_out)
    there = (torch.arange(MOST) < number[:, None]).repeat_interleave(3, dim=1)
    same = (found[:, 2 : 2 + 3 * MOST] == objects.flatten(1)) | ~there
    right = (found[:, 0] == number) & ((found[:, 1] == row) | (number == 1)) & same.all(1)
    return right.float().mean().item()
