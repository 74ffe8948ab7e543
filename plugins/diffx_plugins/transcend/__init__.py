"""Self-Transcendence: a frozen earlier run is the teacher of a new one (arXiv 2601.07773)."""

import torch
import torch.nn.functional as F
from torch import Tensor

from diffx.backbone import Backbone
from diffx.errors import DiffxError
from diffx.plugin import Aux, Batch, Plugin, Schedule, Seen
from diffx.step import fed
from diffx.tokens import Tokens, at_places
from diffx_plugins.repa import alignment_depth, mlp_projector
from diffx_plugins.transcend.network import objective_of, sketch_of


class Transcend(Plugin):
    """Aligns the tokens after block `depth` with those of an earlier run's average after block `teacher_depth`, for the
    same noised state: −cos(projector(tokens), features), weight 0.5, as REPA has it.

    run: the folder of the earlier run, with config.yaml and checkpoints/ema.safetensors. scale: of guidance on the
    features, u + scale (c − u) from a pass with the label, which is not dropped here, and one without; 1 is the pass
    with the label alone. Depths count from 1; None is 8, or a third of fewer than 24 blocks, and two thirds of the
    teacher's blocks. What of this is the paper's could not be established: see the README.
    """

    def __init__(
        self,
        run: str | None = None,
        depth: int | None = None,
        teacher_depth: int | None = None,
        scale: float = 1.0,
        weight: float | Schedule = 0.5,
        projector_dim: int | None = None,
    ) -> None:
        super().__init__(weight)
        if not scale >= 1:
            raise DiffxError(f"plugins.transcend.scale={scale} must be >= 1; type 1 for features that are not guided.")
        self.run, self.depth, self.teacher_depth = run or "", depth, teacher_depth
        self.scale, self.projector_dim = scale, projector_dim
        self.teacher = f"network/{self.run}"
        self.needs = (self.teacher, "t", "noise")

    def setup(self, backbone: Backbone) -> None:
        earlier = sketch_of(self.run) or backbone  # before there is a run, the plan's teacher is one like this
        blocks = earlier.wide_blocks
        source = max(1, 2 * blocks // 3) if self.teacher_depth is None else self.teacher_depth
        if not 1 <= source <= blocks:
            raise DiffxError(
                f"plugins.transcend.teacher_depth={source} counts blocks from 1, and there are {blocks}; type a number "
                f"from 1 to {blocks}."
            )
        self.reads = (alignment_depth("transcend", self.depth, backbone),)
        self.side, self.source = backbone.side, source
        self.seen_by_teacher = objective_of(self.run, self.objective)
        self.projector = mlp_projector(backbone.hidden_size, self.projector_dim, earlier.hidden_size)
        self._backbone = [backbone]  # in a list, so that it is no part of this module

    def prepare(self, batch: Batch, rng: torch.Generator) -> Aux:
        teacher, y = batch[self.teacher], batch["y"]
        given = fed(self.seen_by_teacher, self.side, batch["x"], batch["noise"], batch["t"])
        features = teacher(*given, y, self.source)
        if self.scale != 1:
            unlabelled = teacher(*given, self._backbone[0].null_condition(y), self.source)
            features = unlabelled + self.scale * (features - unlabelled)
        return {"features": features}

    def loss(self, seen: Seen, out: Tensor, aux: Aux) -> Tensor:
        (tokens,) = seen.values()
        features = at_places(Tokens(aux["features"]), tokens.ids)
        # In half precision a zero vector has an infinite gradient: the cosine is taken in float32.
        return -F.cosine_similarity(self.projector(tokens.x).float(), features.float(), dim=-1, eps=1e-12).mean()
