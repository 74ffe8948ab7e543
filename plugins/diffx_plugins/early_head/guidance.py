"""Guidance by the early head: away from the prediction of the network's first blocks."""

from dataclasses import dataclass

from torch import Tensor

from diffx.backbone import Backbone
from diffx.backbone.protocol import Condition
from diffx.errors import DiffxError
from diffx.sampler.guidance import Guidance, Network, times_of


@dataclass(frozen=True)
class EarlyHeadGuidance:
    """early + scale (full − early), both with the label and both of one forward.

    scale, low, high: as of classifier-free guidance; RAEv2 samples with 1.78 on [0.1, 1].
    """

    scale: float = 1.78
    low: float = 0.1
    high: float = 1.0

    def __post_init__(self) -> None:
        Guidance(self.scale, self.low, self.high)

    def check_backbone(self, backbone: Backbone) -> None:
        """Refuse a network without an early head."""
        if getattr(backbone, "early_depth", None) is None:
            raise DiffxError(
                f"guidance=early_head is for networks trained with plugins=[early_head], and this "
                f"{type(backbone).__name__} has no early head; type guidance=classifier_free."
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
        """The guided output at one time, of the image's channels alone."""
        full, early = network(x, times_of(t, x), y).split(x.shape[1], dim=1)
        scale = Guidance(self.scale, self.low, self.high).scale_at(float(t) if position is None else position)
        return early + scale * (full - early)
