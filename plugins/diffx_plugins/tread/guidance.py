"""TREAD's guidance, by two routed forwards, which needs no null label."""

from dataclasses import dataclass

from torch import Tensor

from diffx.backbone import Backbone
from diffx.backbone.protocol import Condition
from diffx.errors import DiffxError
from diffx.planner import make_view
from diffx.plugin import Plugin, Span
from diffx.sampler.guidance import Network, times_of
from diffx.step import walk_with_plugins
from diffx.streams import Streams
from diffx.tokens import random_subset, with_extra


@dataclass(frozen=True)
class RoutedGuidance:
    """weak + scale (strong − weak): two routed forwards with the label kept, for networks trained with TREAD.

    strong, weak: the shares of tokens routed around blocks start to end (inclusive, as in plugins.tread); the README of
    CompVis/tread has 0.3 and 0.7 with scale 1.5. Which tokens leave is drawn anew at every time, alike for all samples,
    so that a sample does not depend on those beside it; the official code draws it for each sample. That code also
    drops the label in both forwards; here it is kept.
    """

    scale: float = 1.5
    strong: float = 0.3
    weak: float = 0.7
    start: int = 2
    end: int | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        if not 0 <= self.strong <= self.weak < 1:
            raise DiffxError(
                f"guidance.strong={self.strong} and guidance.weak={self.weak} are shares of tokens routed around, "
                "0 <= strong <= weak < 1; type for instance guidance.strong=0.3 guidance.weak=0.7."
            )

    def check_backbone(self, backbone: Backbone) -> None:
        """Raises DiffxError for a route that the backbone does not have; training asks before its first step."""
        end = last_block(len(backbone.blocks)) if self.end is None else self.end
        if not 0 <= self.start <= end < len(backbone.blocks):
            raise DiffxError(
                f"guidance.start={self.start} and guidance.end={end} are no route through blocks 0 to "
                f"{len(backbone.blocks) - 1}; type guidance.start=2 guidance.end=null."
            )

    def __call__(
        self,
        network: Network,
        x: Tensor,
        t: float | Tensor,
        y: Condition,
        null: Condition,
        position: float | None = None,
    ) -> Tensor:
        """The guided output at one time. `network` has to be a backbone, whose blocks can be walked one by one.

        Raises:
            DiffxError: it is not one.
        """
        if not isinstance(network, Backbone):
            raise DiffxError("Routed guidance walks the blocks of a diffx backbone; this network is not one.")
        place = float(t) if position is None else position
        strong, weak = (self._routed(network, x, times_of(t, x), y, share, place) for share in (self.strong, self.weak))
        return weak + self.scale * (strong - weak)

    def _routed(self, network: Backbone, x: Tensor, times: Tensor, y: Condition, share: float, place: float) -> Tensor:
        """A forward in which `share` of the tokens skips the route."""
        end = last_block(len(network.blocks)) if self.end is None else self.end
        route = Plugin()
        route.span = Span(self.start, end + 1, share)
        view = make_view("guidance", network, {"guidance": route})
        rng, extra = Streams(self.seed, round(place * 1e9)).shared(f"route/{share}"), view.extra["guidance"]
        grid = view.entering["guidance"] - extra
        keep = with_extra(random_subset(1, grid, view.kept["guidance"][0] - extra, rng), grid, extra)
        aux = {"guidance": {"keep": keep.expand(len(x), -1).to(x.device)}}
        return walk_with_plugins(network, view, {"guidance": route}, x, times, y, aux)[0]


def last_block(depth: int) -> int:
    """The last block of a route over `depth` blocks: depth − 4, the paper's choice, and depth − 2 below 12 blocks."""
    return depth - (4 if depth >= 12 else 2)
