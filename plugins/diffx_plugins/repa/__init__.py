"""REPA: representation alignment for generation (Yu et al. 2024, arXiv 2410.06940); with its options, iREPA
(arXiv 2512.10794)."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from diffx.backbone import Backbone
from diffx.errors import DiffxError
from diffx.frozen.encoder import encoder_spec
from diffx.plugin import Aux, Batch, Plugin, Schedule
from diffx.tokens import Tokens, gather

PROJECTORS = ("mlp", "conv3", "linear")
DISTANCES = ("cosine", "mse")


class REPA(Plugin):
    """Aligns the tokens after block `depth` with a frozen encoder's: −cos(projector(tokens), features), weight 0.5.

    depth: 1-based, the raw residual stream after that many blocks; None is 8 for 24 blocks and more and a third of
    the blocks below (4 for B, by the authors). encoder: one name or several, whose losses are averaged.
    projector_dim: width of the three-layer SiLU projector; None is 2048 as released, and twice the backbone's width
    below S, where 2048 would cost more than the backbone. Alignment holds at every time and for label-dropped samples,
    as released; the paper's NT-Xent variant is not in the released code and not here.

    iREPA is projector="conv3", one 3x3 convolution over the grid in place of the three layers, spatial_norm=0.6 and
    weight 1: features become (f − 0.6 mean) / std over the tokens of an image, channel by channel. The convolution
    needs all tokens. RAEv2's term is projector="linear", one layer, and distance="mse", the mean squared difference.
    """

    def __init__(
        self,
        depth: int | None = None,
        weight: float | Schedule = 0.5,
        encoder: str | Sequence[str] = "dinov2_vitb14",
        projector_dim: int | None = None,
        projector: str = "mlp",
        spatial_norm: float | None = None,
        distance: str = "cosine",
    ) -> None:
        super().__init__(weight)
        for key, value, choices in (("projector", projector, PROJECTORS), ("distance", distance, DISTANCES)):
            if value not in choices:
                raise DiffxError(f"plugins.repa.{key}={value} is not known; type one of {choices}.")
        if spatial_norm is not None and not 0 <= spatial_norm <= 1:
            raise DiffxError(
                f"plugins.repa.spatial_norm={spatial_norm} is the share of the mean that is taken off; type a number "
                "from 0 to 1, or null for features as they are."
            )
        self.projector, self.spatial_norm, self.whole = projector, spatial_norm, projector == "conv3"
        self.distance = distance
        self.depth, self.projector_dim = depth, projector_dim
        self.encoders = (encoder,) if isinstance(encoder, str) else tuple(encoder)
        self.needs = tuple(f"features/{name}" for name in self.encoders)

    def setup(self, backbone: Backbone) -> None:
        self.reads = (alignment_depth("repa", self.depth, backbone),)
        width = backbone.hidden_size
        self.projectors = nn.ModuleList()
        for name in self.encoders:
            features = encoder_spec(name).dim
            if self.projector == "conv3":
                self.projectors.append(GridConvolution(width, features, backbone.side))
            elif self.projector == "linear":
                self.projectors.append(nn.Linear(width, features))
            else:
                self.projectors.append(mlp_projector(width, self.projector_dim, features))

    def prepare(self, batch: Batch, rng: torch.Generator) -> Aux:
        features = {need: batch[need] for need in self.needs}
        if self.spatial_norm is None:
            return features
        return {need: normalise_over_places(f, self.spatial_norm) for need, f in features.items()}

    def loss(self, seen: dict[int, Tokens], out: Tensor, aux: Aux) -> Tensor:
        (tokens,) = seen.values()
        losses = []
        for projector, need in zip(self.projectors, self.needs, strict=True):
            target = aux[need] if tokens.ids is None else gather(aux[need], tokens.ids)
            # In half precision a zero vector has an infinite gradient: the cosine is taken in float32.
            projected, target = projector(tokens.x).float(), target.float()
            if self.distance == "mse":
                losses.append(F.mse_loss(projected, target))
            else:
                losses.append(-F.cosine_similarity(projected, target, dim=-1, eps=1e-12).mean())
        return torch.stack(losses).mean()


def alignment_depth(name: str, depth: int | None, backbone: Backbone) -> int:
    """The block, counted from 1, after which plugin `name` aligns; None is 8 from 24 blocks on, and a third below.

    Raises:
        DiffxError: the backbone has no such block.
    """
    blocks = len(backbone.blocks)
    chosen = depth if depth is not None else (8 if blocks >= 24 else max(1, blocks // 3))
    if not 1 <= chosen <= blocks:
        raise DiffxError(
            f"plugins.{name}.depth={chosen} counts blocks from 1, and the backbone has {blocks}; "
            f"type a number from 1 to {blocks}."
        )
    return chosen


def normalise_over_places(features: Tensor, share: float) -> Tensor:
    """Features (B, N, C), channel by channel less a share of their mean over the image, in units of their deviation."""
    features = features.float()
    return (features - share * features.mean(1, keepdim=True)) / (features.std(1, keepdim=True) + 1e-6)


class GridConvolution(nn.Module):
    """One 3x3 convolution over tokens (B, side², D) as a grid: (B, side², features)."""

    def __init__(self, dim: int, features: int, side: int) -> None:
        super().__init__()
        self.side, self.conv = side, nn.Conv2d(dim, features, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x.transpose(1, 2).unflatten(2, (self.side, self.side))).flatten(2).transpose(1, 2)


def mlp_projector(dim: int, hidden: int | None, features: int) -> nn.Sequential:
    """REPA's three layers, tokens (B, N, dim) -> (B, N, features). hidden: None is 2048, or twice a width below S's."""
    hidden = hidden or (2048 if dim >= 384 else 2 * dim)
    layers = (nn.Linear(dim, hidden), nn.SiLU(), nn.Linear(hidden, hidden), nn.SiLU(), nn.Linear(hidden, features))
    for layer in layers:
        if isinstance(layer, nn.Linear):
            nn.init.xavier_uniform_(layer.weight)
            nn.init.zeros_(layer.bias)
    return nn.Sequential(*layers)
