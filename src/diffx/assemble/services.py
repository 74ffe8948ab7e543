"""Teachers: what plugins need beside the batch, each built once and shared by name.

A need is KIND/NAME, or KIND alone. Who provides a kind is registered under the entry point group `diffx.services`,
where packages of others add their own.
"""

from collections.abc import Callable, Iterable
from importlib.metadata import entry_points
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, cast

import torch
from torch import Tensor

from diffx.backbone import Backbone
from diffx.backbone.teacher import NetworkTeacher
from diffx.frozen.encoder import check_grid, encoder_spec
from diffx.frozen.vision import VisionEncoder

if TYPE_CHECKING:
    from diffx.data import Data, LabelledReference

Service = Callable[..., Any]
GROUP = "diffx.services"


class Surroundings(NamedTuple):
    """What a service is built for. data: None where nobody trains, as for the plan."""

    backbone: Backbone
    image_size: int
    data: "Data | None" = None
    device: torch.device = torch.device("cpu")


class Provider(Protocol):
    """Builds the services of one kind. name: what stands behind KIND/, "" if nothing does."""

    def check(self, name: str, around: Surroundings) -> None:
        """Refuse, with a DiffxError, what cannot be, from names and sizes alone."""
        ...

    def stand_in(self, name: str, backbone: Backbone) -> Service:
        """What gives tensors of the right shapes from no weights: for counting, and for the contracts."""
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

    def make(self, name: str, around: Surroundings) -> Service:
        return make_encoder(name, around.data, around.backbone.side, around.device)


class Average:
    """ema: the stream of the run's own average (NetworkTeacher), which the training module holds."""

    def check(self, name: str, around: Surroundings) -> None:
        """There is always one."""

    def stand_in(self, name: str, backbone: Backbone) -> Service:
        return NetworkTeacher(backbone)

    def make(self, name: str, around: Surroundings) -> None:
        return None


def providers() -> dict[str, Provider]:
    """Who provides each kind of need, diffx's own and those of other packages."""
    found: dict[str, Provider] = {"features": Features(), "ema": Average()}
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
    return list(dict.fromkeys(n.removeprefix("features/") for n in needs if n.startswith("features/")))


def make_encoder(name: str, data: "Data | None", side: int, device: torch.device | str) -> Callable[[Tensor], Tensor]:
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

    network = embedded_encoder(cast("LabelledReference", data)).to(device)

    @torch.no_grad()
    def encode(image: Tensor) -> Tensor:
        return network(image.to(device), side)

    return encode
