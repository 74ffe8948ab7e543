"""Training an autoencoder with the network: what a training step asks of whoever does it.

A component and not a plugin: a run has at most one, it owns the autoencoder, and it makes the latents that all the
rest of a step takes as given. Methods are registered under the entry point group `diffx.end_to_end`.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from diffx.backbone import Backbone
from diffx.objective import Objective
from diffx.planner import Plugins
from diffx.plugin import Batch
from diffx.step import Draws
from diffx.streams import Streams

CLIPPED = ("autoencoder", "discriminator")
"""Children whose gradients are clipped by a norm of their own."""


class EndToEnd(nn.Module):
    """Latents made in the step from the batch's images, and the losses of the autoencoder that makes them.

    Its parameters are trained by the run's optimizer. Those of a child module called as one of CLIPPED are clipped by a
    norm of their own.

    clip: of these norms; None is not clipped.
    """

    clip: float | None = None

    def hold(self, network: Any, shift: list[float], scale: list[float]) -> None:
        """Begin from the autoencoder behind the data, a module with encode() and decode(), whose latents are trained on
        as (raw - shift)·scale; it is copied."""
        raise NotImplementedError

    def setup(self, backbone: Backbone, plugins: Plugins) -> None:
        """Build what the losses need. Raises DiffxError for what cannot be trained together."""
        raise NotImplementedError

    def load(self) -> None:
        """Load the weights of frozen networks that losses need. Raises DiffxError where they are not to be had."""

    def encode(self, batch: Batch, streams: Streams) -> tuple[Batch, Any]:
        """The batch with latents "x" (B, C, h, w) that carry no gradient, and what losses() needs of how they came."""
        raise NotImplementedError

    def losses(
        self, encoded: Any, draws: Draws, backbone: Backbone, plugins: Plugins, objective: Objective
    ) -> dict[str, Tensor]:
        """Unweighted terms as scalars, and "total", which is added to that of the network. No gradient of it reaches
        backbone or plugins."""
        raise NotImplementedError

    def clip_groups(self, names: Sequence[str], gradients: list[Tensor], norms: Tensor, limit: float | None) -> Tensor:
        """Clip the gradients of named parameters, whose norms are given, by the norm of their clip_group(): the
        network's and the plugins' to `limit`, the others to `clip`. Returns the former's norm."""
        groups: dict[str, list[int]] = {}
        for place, name in enumerate(names):
            groups.setdefault(clip_group(name), []).append(place)
        together = {group: torch.linalg.vector_norm(norms[places]) for group, places in groups.items()}
        for group, places in groups.items():
            if most := self.clip if group else limit:
                clip_([gradients[place] for place in places], together[group], most)
        return together[""]

    def follow(self, bad: Tensor, decay: float) -> None:
        """After an optimizer step: averages of what sampling needs, left as they are where `bad`."""

    def decode(self, x: Tensor, rounding: str = "nearest") -> Tensor:
        """Latents as the network has them (B, C, h, w) to uint8 images (B, 3, R, R)."""
        raise NotImplementedError

    def decoder_state(self) -> dict[str, Tensor]:
        """What decode() needs, as tensors by name."""
        raise NotImplementedError

    def load_decoder_state(self, state: Mapping[str, Tensor]) -> None:
        """The same read back, after hold(). Raises DiffxError where it is of another autoencoder."""
        raise NotImplementedError


@contextmanager
def frozen(*modules: nn.Module) -> Iterator[None]:
    """What is computed inside has no gradient in these modules' parameters, and passes it on to its inputs: a frozen
    twin without a copy. One backward then serves what was computed inside and outside."""
    held = [p for module in modules for p in module.parameters() if p.requires_grad]
    try:
        for parameter in held:
            parameter.requires_grad_(False)
        yield
    finally:
        for parameter in held:
            parameter.requires_grad_(True)


def clip_group(name: str) -> str:
    """The group of a parameter of a training module: one of CLIPPED, or "" for all else."""
    owner, _, rest = name.partition(".")
    child = rest.partition(".")[0]
    return child if owner == "end_to_end" and child in CLIPPED else ""


def clip_(gradients: list[Tensor], norm: Tensor, limit: float) -> None:
    """Scale gradients of this norm down to the limit."""
    torch._foreach_mul_(gradients, (limit / (norm + 1e-6)).clamp(max=1.0))
