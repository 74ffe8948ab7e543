"""Dispersive loss: representation regularisation without pairs (Wang & He 2025, arXiv 2506.09027)."""

import math

from torch import Tensor

from diffx.backbone import Backbone
from diffx.errors import DiffxError
from diffx.plugin import Aux, Plugin, Schedule, Seen
from diffx_plugins.dispersive.forms import cosine, covariance, hinge, infonce, squared

FORMS = ("infonce", "hinge", "covariance")
DISTANCES = {"squared": squared, "cosine": cosine}


class Dispersive(Plugin):
    """Pushes the images of a batch apart: log mean exp(−D_ij / temperature) over all B² pairs, weight 0.25.

    z_i: all tokens of image i after block `depth`, flattened. depth counts blocks from 1; None is the last one (the
    PyTorch release, temperature 1, weight 0.25); the paper, in JAX, takes a quarter of the blocks, temperature 0.5 and
    weight 0.5. The batch is that of one rank and is not gathered, as in both.
    form: "infonce", the released one; "hinge", mean max(0, margin − D_ij)²; "covariance" of different features, which
    has no distance. distance: "squared" or "cosine". margin: ours, since no source at hand has the paper's.
    """

    whole = True
    across_samples = True

    def __init__(
        self,
        depth: int | None = None,
        weight: float | Schedule = 0.25,
        temperature: float = 1.0,
        form: str = "infonce",
        distance: str = "squared",
        margin: float = 1.0,
    ) -> None:
        super().__init__(weight)
        for name, value in {"temperature": temperature, "margin": margin}.items():
            if not 0 < value < math.inf:
                raise DiffxError(f"plugins.dispersive.{name}={value} must be positive; type 1.0.")
        for name, word, known in (("form", form, FORMS), ("distance", distance, tuple(DISTANCES))):
            if word not in known:
                raise DiffxError(f"plugins.dispersive.{name}={word} is not known; type one of {', '.join(known)}.")
        self.depth, self.temperature, self.margin = depth, temperature, margin
        self.form, self.distance = form, DISTANCES[distance]

    def setup(self, backbone: Backbone) -> None:
        blocks = len(backbone.blocks)
        depth = blocks if self.depth is None else self.depth
        if not 1 <= depth <= blocks:
            raise DiffxError(
                f"plugins.dispersive.depth={depth} counts blocks from 1, and the backbone has {blocks}; "
                f"type a number from 1 to {blocks}."
            )
        self.reads = (depth,)

    def loss(self, seen: Seen, out: Tensor, aux: Aux) -> Tensor:
        z = seen[self.reads[0]].x.flatten(1).float()
        if self.form == "covariance":
            return covariance(z)
        distances = self.distance(z)
        return hinge(distances, self.margin) if self.form == "hinge" else infonce(distances, self.temperature)
