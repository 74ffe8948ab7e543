"""SRA 2: alignment with features of the latents' own autoencoder (arXiv 2601.17830)."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from diffx.backbone import Backbone
from diffx.errors import DiffxError
from diffx.plugin import Aux, Batch, Plugin, Schedule, Seen
from diffx.tokens import Tokens, at_places
from diffx_plugins.repa import alignment_depth

LOSSES = ("smooth_l1", "cosine")
BETA = 0.05  # SRA's, whose loss this takes for "smooth"


class SRA2(Plugin):
    """Pulls the tokens after block `depth`, through one linear layer, to what the middle of the frozen autoencoder's
    decoder makes of the clean latent, pooled to the tokens and normalised token by token.

    depth: from 1 on; None is 8 for 24 blocks and more and a third of the blocks below, as of REPA. loss: "smooth_l1"
    with β = 0.05, or "cosine", minus the cosine. width: channels of the autoencoder's middle, 512 of SD-VAE. What of
    this is the paper's could not be established: see the README.
    """

    def __init__(
        self, depth: int | None = None, loss: str = "smooth_l1", weight: float | Schedule = 0.2, width: int = 512
    ) -> None:
        super().__init__(weight)
        if loss not in LOSSES:
            raise DiffxError(f"plugins.sra2.loss={loss} is not known; type one of {', '.join(LOSSES)}.")
        if width < 1:
            raise DiffxError(f"plugins.sra2.width={width} is a number of channels; type 512, that of SD-VAE.")
        self.depth, self.kind, self.width = depth, loss, width
        self.needs = (f"autoencoder/{width}",)

    def setup(self, backbone: Backbone) -> None:
        self.reads = (alignment_depth("sra2", self.depth, backbone),)
        self.projector = nn.Linear(backbone.hidden_size, self.width)

    def prepare(self, batch: Batch, rng: torch.Generator) -> Aux:
        return {"features": F.layer_norm(batch[self.needs[0]].float(), (self.width,))}

    def loss(self, seen: Seen, out: Tensor, aux: Aux) -> Tensor:
        (tokens,) = seen.values()
        projected, features = self.projector(tokens.x).float(), at_places(Tokens(aux["features"]), tokens.ids)
        if self.kind == "cosine":
            return -F.cosine_similarity(projected, features, dim=-1, eps=1e-12).mean()
        return F.smooth_l1_loss(projected, features, beta=BETA)
