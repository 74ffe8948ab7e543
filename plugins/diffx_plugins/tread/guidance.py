"""TREAD's guidance, by two routed forwards, which needs no null label."""

from dataclasses import dataclass

from torch import Tensor

from diffx.backbone import DiT
from diffx.errors import DiffxError
from diffx.planner import make_plan
from diffx.plugin import Plugin, Span
from diffx.sampler.guidance import Network, _times
from diffx.step import walk
from diffx.streams import Streams
from diffx.tokens import random_subset


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

    def __call__(
        self, network: Network, x: Tensor, t: float | Tensor, y: Tensor, null_label: int, position: float | None = None
    ) -> Tensor:
        """The guided output at one time; the network must be a backbone, whose blocks can be walked one by one."""
        if not isinstance(network, DiT):
            raise DiffxError("Routed guidance walks the blocks of a diffx backbone; this network is not one.")
        place = float(t) if position is None else position
        strong, weak = (self._routed(network, x, _times(t, x), y, share, place) for share in (self.strong, self.weak))
        return weak + self.scale * (strong - weak)

    def _routed(self, network: DiT, x: Tensor, times: Tensor, y: Tensor, share: float, position: float) -> Tensor:
        """A forward in which `share` of the tokens skips the route."""
        depth = len(network.blocks)
        end = self.end if self.end is not None else depth - (4 if depth >= 12 else 2)
        route = Plugin()
        route.span = Span(self.start, end + 1, share)
        view = make_plan(network, {"guidance": route}, ()).views[0]
        rng = Streams(self.seed, round(position * 1e9)).shared(f"route/{share}")
        keep = random_subset(1, network.num_tokens, view.kept["guidance"][0], rng).expand(len(x), -1).to(x.device)
        return walk(network, view, {"guidance": route}, x, times, y, {"guidance": {"keep": keep}})[0]
