"""REG: representation entanglement for generation (Wu et al. 2025, arXiv 2507.01467)."""

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor

from diffx.backbone import Backbone
from diffx.backbone.protocol import unpack
from diffx.errors import DiffxError
from diffx.frozen.encoder import encoder_spec
from diffx.plugin import Aux, Batch, Plugin, Schedule
from diffx.tokens import Tokens, gather
from diffx_plugins.repa import alignment_depth, mlp_projector

WEIGHTS = {"align": 0.5, "class": 0.03}


class REG(Plugin):
    """Brings a frozen encoder's class token as a second stream of the state, trains its denoising ("class", weight
    0.03), and aligns the tokens after block `depth`, the class token too, with the encoder's ("align", weight 0.5).

    depth, projector_dim: as of REPA. The backbone denoises the class token at sampling too (REGBackbone).
    """

    reads_extra = True
    brings_backbone = True

    def __init__(
        self,
        depth: int | None = None,
        weight: Mapping[str, float | Schedule] = WEIGHTS,
        encoder: str = "dinov2_vitb14",
        projector_dim: int | None = None,
    ) -> None:
        super().__init__({**WEIGHTS, **weight})
        self.depth, self.projector_dim, self.encoder = depth, projector_dim, encoder
        self.features, self.class_token = f"features/{encoder}", f"class_token/{encoder}"
        self.needs = (self.features, self.class_token, "target")
        self.streams = {"class": self.class_token}

    def setup(self, backbone: Backbone) -> None:
        dim = encoder_spec(self.encoder).dim
        if "class" not in backbone.streams:
            raise DiffxError(
                f"plugins.reg denoises a class token beside the image, and {type(backbone).__name__} has no place for "
                "one; type backbone._target_=diffx.backbone.REGBackbone, as conf/plugins/reg.yaml does."
            )
        if backbone.streams["class"] != (dim,):
            raise DiffxError(
                f"plugins.reg.encoder={self.encoder} has a class token of {dim} numbers, and the backbone denoises one "
                f"of {backbone.streams['class'][0]}; type backbone.class_dim={dim}."
            )
        self.reads = (alignment_depth("reg", self.depth, backbone),)
        self._shapes = dict(backbone.streams)
        self.projector = mlp_projector(backbone.hidden_size, self.projector_dim, dim)

    def prepare(self, batch: Batch, rng: torch.Generator) -> Aux:
        features, class_token = batch[self.features], batch[self.class_token]
        return {
            "features": torch.cat([features, class_token[:, None].to(features.dtype)], dim=1),
            "class_target": unpack(batch["target"], self._shapes)["class"],
        }

    def loss(self, seen: dict[int, Tokens], out: Tensor, aux: Aux) -> dict[str, Tensor]:
        (tokens,) = seen.values()
        target = aux["features"] if tokens.ids is None else gather(aux["features"], tokens.ids)
        # In half precision a zero vector has an infinite gradient: the cosine is taken in float32.
        cosine = F.cosine_similarity(self.projector(tokens.x).float(), target.float(), dim=-1, eps=1e-12)
        predicted = unpack(out.float(), self._shapes)["class"]
        return {"align": -cosine.mean(), "class": F.mse_loss(predicted, aux["class_target"])}
