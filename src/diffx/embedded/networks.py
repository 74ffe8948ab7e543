"""The small networks of the embedded data: an encoder for REPA, two feature networks for Fréchet distances, and an
autoencoder for shapes_latent.

For digits and shapes as they are by default the weights come with diffx, so that a distance is the same ruler
everywhere. For any other data they are trained once from its own training images, seeded, and cached. All differ in
method, architecture and seed, so that no metric is the teacher: the encoder learns by VICReg, one feature network
classifies, the other restores damaged images. A distance in their features is not FID, and is called fd_embedded
wherever it stands.
"""

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from diffx.data import LabelledReference
from diffx.embedded import shipped, training
from diffx.embedded.architecture import (
    FEATURE_DIM,
    FeatureNetwork,
    SmallAutoencoder,
    TokenEncoder,
    classifier,
    restorer,
)
from diffx.features.linear_probe import linear_probe
from diffx.pixels.values import signed
from diffx.store import cache
from diffx.store.digest import digest

__all__ = [
    "AUTOENCODER",
    "ENCODER",
    "FEATURE_DIM",
    "SELF_SUPERVISED",
    "SUPERVISED",
    "autoencoder",
    "encoder",
    "self_supervised",
    "supervised",
]

VERSION = 4  # of the recipes: a change makes all networks anew, and asks for new ones to be shipped
IMAGES = 16384  # of a larger data set, the first so many are enough

Network = TypeVar("Network", bound=nn.Module)


@dataclass(frozen=True)
class Recipe(Generic[Network]):
    """How one network is made: seed, architecture for some data, training, and the features that it is judged by."""

    role: str
    seed: int
    build: Callable[[LabelledReference], Network]
    train: Callable[[Network, Tensor, Tensor, int], None]
    features: Callable[[Network, Tensor], Tensor]


ENCODER = Recipe(
    "encoder",
    1,
    build=lambda data: TokenEncoder(data.shape[0]),
    train=lambda network, images, labels, classes: training.vicreg(network, images),
    features=lambda network, images: network.pooled(signed(images)),
)
SUPERVISED = Recipe(
    "supervised",
    2,
    build=lambda data: classifier(data.shape[0]),
    train=training.classify,
    features=lambda network, images: network(images),
)
SELF_SUPERVISED = Recipe(
    "self_supervised",
    3,
    build=lambda data: restorer(data.shape[0], data.shape[1]),
    train=lambda network, images, labels, classes: training.restore(network, images),
    features=lambda network, images: network(images),
)
AUTOENCODER = Recipe(
    "autoencoder",
    4,
    build=lambda data: SmallAutoencoder(data.shape[0]),
    train=lambda network, images, labels, classes: training.reconstruct(network, images),
    features=lambda network, images: network.encode(signed(images))[:, : network.channels].flatten(1),
)


def encoder(data: LabelledReference) -> TokenEncoder:
    """REPA's frozen encoder for this data: VICReg (Bardes et al. 2022) on two augmented views."""
    return _made(ENCODER, data)


def supervised(data: LabelledReference) -> FeatureNetwork:
    """A feature network that learned to tell the classes apart; its features are the layer before the logits."""
    return _made(SUPERVISED, data)


def self_supervised(data: LabelledReference) -> FeatureNetwork:
    """A feature network that learned to restore images from noise and holes; its features are the bottleneck."""
    return _made(SELF_SUPERVISED, data)


def autoencoder(data: LabelledReference) -> SmallAutoencoder:
    """A variational autoencoder of this data, for training on its latents."""
    return _made(AUTOENCODER, data)


def train(recipe: Recipe[Network], data: LabelledReference) -> tuple[Network, dict[str, Any]]:
    """The network of `recipe`, trained for this data, and how good it is; one line says so."""
    with seeded(recipe.seed), torch.enable_grad():
        network = recipe.build(data)
        batch = data.batch(torch.arange(min(IMAGES, len(data))))
        recipe.train(network, batch["image"], batch["y"], data.num_classes)
    network.eval().requires_grad_(False)
    if isinstance(network, FeatureNetwork | SmallAutoencoder):
        network.standardise(batch["image"])
    accuracy = quality(recipe, network, data)
    notes = {"linear_probe_accuracy": accuracy}
    said = f"embedded {recipe.role} of {data.name}: a linear probe classifies {accuracy:.1%} of held-out images"
    if isinstance(network, SmallAutoencoder):
        notes["psnr"] = reconstruction(network, data)
        said += f", which come back at {notes['psnr']:.1f} dB (PSNR)"
    print(said, flush=True)
    return network, notes


def reconstruction(network: SmallAutoencoder, data: LabelledReference) -> float:
    """PSNR in dB, of the mean squared error over 1,000 held-out images decoded from their posterior's mean."""
    x = signed(data.reference()[:1000])
    decoded = network.decode(network.encode(x)[:, : network.channels]).clamp(-1, 1)
    return float(10 * torch.log10(4 / (decoded - x).square().mean()))


def quality(recipe: Recipe[Network], network: Network, data: LabelledReference) -> float:
    """The share of held-out images that a linear probe on the network's features classifies."""
    batch = data.batch(torch.arange(min(IMAGES, len(data))))
    known, held_out = (
        torch.cat([recipe.features(network, part) for part in images.split(512)])
        for images in (batch["image"], data.reference())
    )
    return linear_probe(known, batch["y"], held_out, data.reference_labels())


def facts(recipe: Recipe[Network], data: LabelledReference) -> dict[str, Any]:
    """Everything that says which network it is."""
    with torch.device("meta"):
        shapes = [list(tensor.shape) for tensor in recipe.build(data).state_dict().values()]
    return {
        "role": recipe.role,
        "data": data.identity,
        "version": VERSION,
        "steps": training.STEPS,
        "shapes": shapes,
    }


def _made(recipe: Recipe[Network], data: LabelledReference) -> Network:
    """The network of `recipe` for this data."""
    name = f"{data.name}-{recipe.role}"
    return kept(name, facts(recipe, data), lambda: recipe.build(data), lambda: train(recipe, data))


def kept(
    name: str,
    known: dict[str, Any],
    build: Callable[[], Network],
    train: Callable[[], tuple[Network, dict[str, Any]]],
) -> Network:
    """A frozen network as shipped, else from the cache, where it is trained first if need be.

    known: everything that says which it is. build: one of its shapes. train: it itself, and notes such as its accuracy.
    """
    path = shipped.find(name, known)
    if path is None:
        path = cache.home() / "embedded" / f"{name}-{digest(known)}.safetensors"

        def make(file: Path) -> dict[str, Any]:
            network, notes = train()
            save_file(network.state_dict(), file)
            return notes

        cache.entry(path, known, make)
    with seeded(0):
        network = build()
    network.load_state_dict(load_file(path))
    return network.eval().requires_grad_(False)


@contextlib.contextmanager
def seeded(seed: int) -> Iterator[None]:
    """What is drawn inside depends on the seed alone, and the caller's generators stay as they were."""
    with torch.random.fork_rng(devices=[]):
        # torch.manual_seed would also seed the generators of GPUs.
        torch.default_generator.manual_seed(seed)
        yield
