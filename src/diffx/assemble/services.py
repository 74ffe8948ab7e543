"""Teachers: what plugins need beside the batch, each built once and shared by name.

A need is KIND/NAME, or KIND alone. Who provides a kind is registered under the entry point group `diffx.services`,
where packages of others add their own.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from importlib.metadata import entry_points
from typing import TYPE_CHECKING, Any, Protocol, cast

import torch
from torch import Tensor

from diffx.backbone import Backbone
from diffx.backbone.teacher import NetworkTeacher
from diffx.errors import DiffxError
from diffx.frozen.encoder import SPECS, check_grid, encoder_spec, find_encoder
from diffx.frozen.vision import VisionEncoder
from diffx.pixels.values import signed

if TYPE_CHECKING:
    from diffx.data import Data, LabelledReference
    from diffx.embedded.architecture import TokenEncoder

Service = Callable[..., Any]
GROUP = "diffx.services"
CPU = torch.device("cpu")


class Encoder(Protocol):
    """A frozen encoder of uint8 images (B, C, H, W): tokens (B, side², dim), and a class token (B, dim)."""

    def __call__(self, image: Tensor) -> Tensor: ...
    def class_token(self, image: Tensor) -> Tensor: ...


@dataclass(frozen=True)
class Surroundings:
    """What a service is built for. data: None where nobody trains, as for the plan. encoders: those that are made, and
    that the services of a run share."""

    backbone: Backbone
    image_size: int
    data: "Data | None" = None
    device: torch.device = CPU
    encoders: dict[str, Encoder] = field(default_factory=dict)

    def encoder(self, name: str) -> Encoder:
        """Encoder `name`, made once."""
        if name not in self.encoders:
            self.encoders[name] = make_encoder(name, self.data, self.backbone.side, self.device)
        return self.encoders[name]


class Provider(Protocol):
    """Builds the services of one kind. name: what stands behind KIND/, "" if nothing does."""

    def check(self, name: str, around: Surroundings) -> None:
        """Refuse, with a DiffxError, what cannot be, from names and sizes alone."""
        ...

    def stand_in(self, name: str, backbone: Backbone) -> Service:
        """What gives tensors of the right shapes from no weights: for counting, and for the contracts."""
        ...

    def find(self, name: str) -> None:
        """Refuse, with a DiffxError, where what it loads is neither here nor to be had; nothing is loaded."""
        ...

    def make(self, name: str, around: Surroundings) -> Service | None:
        """The service itself; None where the training module provides it."""
        ...


class Features:
    """features/ENCODER: tokens (B, N, dim) of a frozen vision encoder."""

    def check(self, name: str, around: Surroundings) -> None:
        check_grid(encoder_spec(name), name, around.image_size, around.backbone.side)

    def stand_in(self, name: str, backbone: Backbone) -> Service:
        dim, count = encoder_spec(name).dim, backbone.grid_tokens
        return lambda image: torch.zeros(len(image), count, dim)

    def find(self, name: str) -> None:
        find_encoder(name)

    def make(self, name: str, around: Surroundings) -> Service:
        return around.encoder(name)


class ClassToken:
    """class_token/ENCODER: the class token (B, dim) of a frozen vision encoder, which runs once for it and features."""

    def check(self, name: str, around: Surroundings) -> None:
        check_grid(encoder_spec(name), name, around.image_size, around.backbone.side)
        if not encoder_spec(name).class_token:
            having = ", ".join(other for other, spec in SPECS.items() if spec.class_token)
            raise DiffxError(f"encoder {name} has no class token; type one of {having}.")

    def stand_in(self, name: str, backbone: Backbone) -> Service:
        dim = encoder_spec(name).dim
        return lambda image: torch.zeros(len(image), dim)

    def find(self, name: str) -> None:
        find_encoder(name)

    def make(self, name: str, around: Surroundings) -> Service:
        return around.encoder(name).class_token


class Average:
    """ema: the stream of the run's own average (NetworkTeacher), which the training module holds."""

    def check(self, name: str, around: Surroundings) -> None:
        """There is always one."""

    def stand_in(self, name: str, backbone: Backbone) -> Service:
        return NetworkTeacher(backbone)

    def find(self, name: str) -> None:
        """Nothing is loaded."""

    def make(self, name: str, around: Surroundings) -> None:
        return None


def providers() -> dict[str, Provider]:
    """Who provides each kind of need, diffx's own and those of other packages."""
    found: dict[str, Provider] = {"features": Features(), "class_token": ClassToken(), "ema": Average()}
    for entry in entry_points(group=GROUP):
        found[entry.name] = entry.load()()
    return found


def _kind(need: str) -> tuple[str, str]:
    kind, _, name = need.partition("/")
    return kind, name


def provided_needs(needs: Iterable[str], around: Surroundings) -> list[str]:
    """Of these needs those that a provider meets. Raises DiffxError for one that it refuses."""
    known, met = providers(), []
    for need in dict.fromkeys(needs):
        kind, name = _kind(need)
        if kind in known:
            known[kind].check(name, around)
            met.append(need)
    return met


def stand_ins(needs: Iterable[str], backbone: Backbone) -> dict[str, Service]:
    """A stand-in for every need that a provider meets."""
    known = providers()
    split = {need: _kind(need) for need in needs}
    return {need: known[kind].stand_in(name, backbone) for need, (kind, name) in split.items() if kind in known}


def find_services(needs: Iterable[str]) -> None:
    """Raises DiffxError where a teacher's weights are not to be had."""
    known = providers()
    for need in needs:
        kind, name = _kind(need)
        if kind in known and hasattr(known[kind], "find"):  # those of other packages may have none
            known[kind].find(name)


def make_services(needs: Iterable[str], around: Surroundings) -> dict[str, Service]:
    """The teacher of each need that the data does not meet itself."""
    assert around.data is not None
    known, made = providers(), {}
    for need in around.data.provide(needs, around.backbone.side):
        kind, name = _kind(need)
        service = known[kind].make(name, around) if kind in known else None
        if service is not None:
            made[need] = service
    return made


def encoder_names(needs: Iterable[str]) -> list[str]:
    """The frozen encoders among what plugins need, each once."""
    split = (_kind(need) for need in needs)
    return list(dict.fromkeys(name for kind, name in split if kind in ("features", "class_token")))


def make_encoder(name: str, data: "Data | None", side: int, device: torch.device | str) -> Encoder:
    """Encoder `name` for a backbone of side² tokens: uint8 images (B, C, H, W) to float32 (B, side², dim) on `device`.

    "embedded" is the small one that diffx trains from `data`; all others come from timm (docs/prepare.md lists their
    preprocessing). Frozen, in eval mode, without gradients.

    Raises:
        DiffxError: unknown, or its weights are nowhere to be found.
    """
    spec = encoder_spec(name)
    if spec.model is not None:
        return VisionEncoder(name, spec.model, side, torch.device(device))
    from diffx.embedded.networks import encoder as embedded_encoder

    images = getattr(data, "images", data)  # of latents and of captions, the images
    return Embedded(embedded_encoder(cast("LabelledReference", images)).to(device), side, device)


class Embedded:
    """The small encoder that diffx trains itself; its class token is its mean token."""

    def __init__(self, network: "TokenEncoder", side: int, device: torch.device | str) -> None:
        self._network, self._side, self._device = network, side, device

    @torch.no_grad()
    def __call__(self, image: Tensor) -> Tensor:
        return self._network(image.to(self._device), self._side)

    @torch.no_grad()
    def class_token(self, image: Tensor) -> Tensor:
        return self._network.pooled(signed(image.to(self._device)))
