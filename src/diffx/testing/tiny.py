"""A run small enough for a test: a tiny network, a batch, stand-ins for teachers."""

import copy
from collections.abc import Callable, Iterable, Mapping
from importlib.metadata import entry_points
from typing import Any

import torch
import torch.distributed
import torch.multiprocessing
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils._pytree import tree_map

from diffx.assemble.model import TrainingModel, set_up
from diffx.assemble.services import Service, stand_ins
from diffx.backbone import Backbone, DiT, MDTBackbone
from diffx.backbone.protocol import Condition
from diffx.backbone.teacher import NetworkTeacher
from diffx.backbone.text import Text
from diffx.errors import DiffxError
from diffx.frozen.encoder import encoder_spec
from diffx.objective import Interpolant
from diffx.planner import Plan, make_phases, make_plan
from diffx.plugin import Plugin
from diffx.step import Draws, draw, losses
from diffx.streams import Streams

BATCH, CLASSES, IMAGE = 4, 10, 32


Services = Mapping[str, Service]


def tiny_backbone(**options: Any) -> Any:
    """A DiT of 6 blocks on 16 tokens, with no weight left at zero; `options` go to it."""
    return tiny_of(DiT, **options)


def tiny_mdt(**options: Any) -> Any:
    """MDT's network of 6 blocks on 16 tokens, the last two a decoder, with no weight left at zero."""
    return tiny_of(MDTBackbone, **options)


def tiny_of(family: Any, **options: Any) -> Any:
    """A family's tiny network (`family.tiny`), the same every time, with no weight left at zero."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        backbone = family.tiny(**options)
    randomise(backbone, seed=1)
    return backbone


def randomise(module: nn.Module, seed: int = 0) -> None:
    """Fill every parameter that is all zeros: a fresh DiT outputs exactly zero, and comparing zeros proves nothing."""
    rng = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in module.parameters():
            if not parameter.any():
                parameter.copy_(0.2 * torch.randn(parameter.shape, generator=rng))


def stand_in_encoder(dim: int, side: int) -> Callable[[Tensor], Tensor]:
    """A deterministic encoder: images uint8 (B, 3, H, W) -> features (B, side², dim), waves of the mean colours."""
    directions = 3 * torch.randn(3, dim, generator=torch.Generator().manual_seed(dim))

    def encode(image: Tensor) -> Tensor:
        colours = F.adaptive_avg_pool2d(image.float() / 127.5 - 1, side).flatten(2).transpose(1, 2)
        return torch.sin(colours @ directions)

    return encode


def stand_in_class_token(dim: int) -> Callable[[Tensor], Tensor]:
    """A deterministic class token: images uint8 (B, 3, H, W) -> (B, dim), waves of the mean colour."""
    encode = stand_in_encoder(dim, 1)
    return lambda image: encode(image)[:, 0]


def stand_in_services(plugins: Iterable[Plugin], backbone: Backbone) -> Services:
    """A stand-in for every service that a plugin needs: encoders that see the image, and the providers' own."""
    needs = [need for plugin in plugins for need in plugin.needs]
    names = [need.removeprefix("features/") for need in needs if need.startswith("features/")]
    encoders = {f"features/{name}": stand_in_encoder(encoder_spec(name).dim, backbone.side) for name in names}
    names = [need.removeprefix("class_token/") for need in needs if need.startswith("class_token/")]
    pooled = {f"class_token/{name}": stand_in_class_token(encoder_spec(name).dim) for name in names}
    return {**stand_ins(needs, backbone), **encoders, **pooled}


def example_condition(net: Backbone | None, rng: torch.Generator) -> Condition:
    """What conditions the four samples: labels, or text of different lengths where text conditions the network."""
    if net is None or net.text is None:
        return torch.randint(CLASSES, (BATCH,), generator=rng)
    length, channels, pooled = net.text
    present = torch.randint(1, length + 1, (BATCH, 1), generator=rng)
    tokens = torch.randn(BATCH, length, channels, generator=rng)
    return Text(tokens, torch.arange(length) < present, torch.randn(BATCH, pooled, generator=rng))


def tiny_batch(net: Backbone | None = None) -> dict[str, Any]:
    """Four samples with their images, and what conditions a network: labels, unless it says otherwise."""
    rng = torch.Generator().manual_seed(2)
    return {
        "x": torch.randn(BATCH, 4, 8, 8, generator=rng),
        "y": example_condition(net, rng),
        "image": torch.randint(256, (BATCH, 3, IMAGE, IMAGE), generator=rng).byte(),
    }


class TinyRun:
    """Plugins set up on a backbone, planned, and their training step. Raises DiffxError for a set that cannot work."""

    def __init__(
        self, plugins: Mapping[str, Plugin], backbone: Backbone | None = None, services: Services | None = None
    ) -> None:
        self.backbone = tiny_backbone() if backbone is None else backbone
        self.plugins, self.objective, self.batch = dict(plugins), Interpolant(), tiny_batch(self.backbone)
        for seed, (name, plugin) in enumerate(self.plugins.items()):
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(seed)
                set_up(name, plugin, self.backbone, self.objective)
            randomise(plugin, seed)
        given = services or stand_in_services(self.plugins.values(), self.backbone)
        self.services: dict[str, Any] = {"ema": NetworkTeacher(another(self.backbone)), **given}
        self.plan = self.plan_now()

    def plan_now(self) -> Plan:
        """The plan of what the plugins declare at this moment."""
        return make_plan(self.backbone, self.plugins, self.provided)

    @property
    def model(self) -> TrainingModel:
        """What a DiffusionModule takes."""
        return TrainingModel(
            self.backbone, self.plugins, self.objective, make_phases(self.backbone, self.plugins, self.provided)
        )

    @property
    def provided(self) -> set[str]:
        return {*self.batch, *self.services}

    def name_in_reverse(self) -> None:
        """The same set, named in the other order."""
        self.plugins = dict(reversed(self.plugins.items()))
        self.plan = self.plan_now()

    def draws(self, step: int = 0, rank: int = 0, ranks: int = 1) -> Draws:
        """What training step `step` draws on one of so many ranks, a tenth of the labels dropped."""
        batch = tree_map(lambda rows: rows.chunk(ranks)[rank], self.batch)
        streams = Streams(0, step, rank)
        return draw(self.backbone, self.plan, self.plugins, self.objective, batch, self.services, streams, 0.1)

    def losses(self, draws: Draws) -> dict[str, Tensor]:
        return losses(self.backbone, self.plan, self.plugins, self.objective, draws)


def registered() -> list[str]:
    """The names under the entry points `diffx.plugins` of all installed packages."""
    return sorted(entry_points(group="diffx.plugins").names)


def make_registered(name: str) -> Plugin:
    """The registered plugin `name` with its defaults."""
    return next(iter(entry_points(group="diffx.plugins", name=name))).load()()


def registered_backbones() -> dict[str, Any]:
    """The families under the entry points `diffx.backbones` of all installed packages, by name."""
    return {entry.name: entry.load() for entry in sorted(entry_points(group="diffx.backbones"))}


def randomised_anew(module: nn.Module) -> None:
    """Overwrite every parameter with noise."""
    rng = torch.Generator().manual_seed(9)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=rng))


def another(backbone: Backbone) -> Backbone:
    """A network like this one whose weights are all a little larger: its average, say."""
    average = copy.deepcopy(backbone)
    with torch.no_grad():
        for parameter in average.parameters():
            parameter.mul_(1.05)
    return average.requires_grad_(False)


def try_set(
    plugins: Mapping[str, Plugin], backbone: Backbone, services: Services | None = None
) -> tuple[TinyRun | None, str]:
    """A run of these plugins, or None and the sentence that refuses them."""
    try:
        return TinyRun(plugins, backbone, services), ""
    except DiffxError as error:
        return None, str(error)
