"""Path-drop guidance: away from a forward that has neither the label nor the middle blocks."""

from dataclasses import dataclass

from torch import Tensor

from diffx.backbone import SparseMiddle
from diffx.backbone.protocol import Condition, Plain, RunBlock, walk
from diffx.errors import DiffxError
from diffx.sampler.guidance import Guidance, Network, times_of
from diffx.tokens import Tokens


@dataclass(frozen=True)
class PathDropGuidance:
    """u + scale (c − u) where u has no label and mask tokens in place of what the middle blocks make, which do not run;
    for networks trained with SPRINT.

    scale, low, high: as of classifier-free guidance. All channels and streams are guided alike.
    """

    scale: float = 1.5
    low: float = 0.0
    high: float = 1.0

    def __post_init__(self) -> None:
        Guidance(self.scale, self.low, self.high)

    def __call__(
        self,
        network: Network,
        x: Tensor,
        t: float | Tensor,
        y: Condition,
        null: Condition,
        position: float | None = None,
    ) -> Tensor:
        """The guided output at one time. `network` has to be a backbone with a middle that can be left out.

        Raises:
            DiffxError: it is not one.
        """
        if not isinstance(network, SparseMiddle):
            raise DiffxError(
                f"Path-drop guidance leaves out the middle blocks of a SprintBackbone or SRDiT, and this network is a "
                f"{type(network).__name__}; type guidance=classifier_free."
            )
        times = times_of(t, x)
        strong = network(x, times, y)
        scale = Guidance(self.scale, self.low, self.high).scale_at(float(t) if position is None else position)
        if scale == 1:
            return strong
        weak = without_middle(network, x, times, null)
        return weak + scale * (strong - weak)


def without_middle(network: SparseMiddle, x: Tensor, t: Tensor, y: Condition) -> Tensor:
    """A forward in which mask tokens stand for what the middle blocks would have made."""
    return walk(network, x, t, y, _PathDropped(network))


class _PathDropped(Plain):
    def __init__(self, network: SparseMiddle) -> None:
        self._middle, self._mask = network.middle, network.mask_token

    def arrive(self, depth: int, tokens: Tokens, cond: Tensor) -> Tokens:
        if depth != self._middle[1]:
            return tokens
        return Tokens(self._mask.to(tokens.x.dtype).expand_as(tokens.x), tokens.ids, tokens.cond)

    def through(self, depth: int, run: RunBlock, tokens: Tokens, cond: Tensor) -> Tokens:
        start, stop = self._middle
        return tokens if start <= depth < stop else run(tokens, cond)
