"""SRA: self-representation alignment (Jiang et al. 2025, arXiv 2505.02831)."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from diffx.backbone import Backbone
from diffx.errors import DiffxError
from diffx.objective import Objective
from diffx.plugin import Aux, Batch, Plugin, Schedule, Seen
from diffx.step import fed
from diffx.tokens import Tokens, at_places

WEIGHTS = {"cos": 0.5, "smooth_l1": 0.2, "l2": 0.2}
DEPTHS = {12: (3, 8), 24: (6, 16), 28: (8, 20)}  # blocks -> student and teacher, for SiT
STEPS = 1000  # of an objective whose times are whole numbers


class SRA(Plugin):
    """Aligns the student's tokens after block `depth`, through a small head, with the average's after block
    `teacher_depth` for the same image, noise and dropped label at an earlier time t' = max(t − interval · u, 0).

    u is uniform in [0, 1], one for each sample. loss: "cos", the released default, one minus the cosine over the
    *token* axis of each channel, weight 0.5; "smooth_l1" with β = 0.05, the paper's, weight 0.2 (there it falls by
    epoch: give a schedule); "l2". Depths count blocks from 1; None is the paper's for 12, 24 and 28 blocks, and a
    quarter and two thirds of others. The teacher stops at its block, where the released code runs it to the end.
    """

    needs = ("ema", "t", "noise", "label")

    def __init__(
        self,
        depth: int | None = None,
        teacher_depth: int | None = None,
        loss: str = "cos",
        weight: float | Schedule | None = None,
        interval: float = 0.2,
    ) -> None:
        check_loss("sra", loss)
        super().__init__(WEIGHTS[loss] if weight is None else weight)
        if not 0 <= interval <= 1:
            raise DiffxError(f"plugins.sra.interval={interval} is a share of the times; type a number from 0 to 1.")
        self.depth, self.teacher_depth, self.kind, self.interval = depth, teacher_depth, loss, interval

    def setup(self, backbone: Backbone) -> None:
        check_times("sra", self.objective)
        student, self.teacher = depths_of("sra", backbone.wide_blocks, self.depth, self.teacher_depth)
        self.reads, self.side = (student,), backbone.side
        self.head = alignment_head(backbone.hidden_size)

    def prepare(self, batch: Batch, rng: torch.Generator) -> Aux:
        x, t = batch["x"], batch["t"]
        shift = self.interval * torch.rand(len(x), generator=rng, device=rng.device)
        shift = shift.view(-1, *(1 for _ in t.shape[1:]))
        earlier = fed(self.objective, self.side, x, batch["noise"], before(t, shift))
        return {"teacher": batch["ema"](*earlier, batch["label"], self.teacher)}

    def loss(self, seen: Seen, out: Tensor, aux: Aux) -> Tensor:
        tokens = seen[self.reads[0]]
        return distance(self.kind, self.head(tokens.x), at_places(Tokens(aux["teacher"]), tokens.ids))


# What Self-Flow shares.


def before(t: Tensor, shift: Tensor) -> Tensor:
    """Times earlier by `shift`, which is a share of all times, and none before the data."""
    return (t - shift).clamp(min=0) if t.is_floating_point() else (t - (STEPS * shift).long()).clamp(min=0)


def distance(kind: str, student: Tensor, teacher: Tensor) -> Tensor:
    """Mean distance of tokens (B, N, D), in float32; "cos" goes over the tokens of each channel, as released."""
    student, teacher = student.float(), teacher.float()
    if kind == "cos":
        return 1 - F.cosine_similarity(student, teacher, dim=1).mean()
    return F.mse_loss(student, teacher) if kind == "l2" else F.smooth_l1_loss(student, teacher, beta=0.05)


def alignment_head(width: int) -> nn.Sequential:
    """Two layers on the student's tokens, of which sampling knows nothing."""
    return nn.Sequential(nn.Linear(width, 2 * width), nn.SiLU(), nn.Linear(2 * width, width))


def depths_of(name: str, blocks: int, student: int | None, teacher: int | None) -> tuple[int, int]:
    """Depths of student and teacher, by default the paper's. Raises DiffxError for one that is none."""
    usual = DEPTHS.get(blocks, (max(1, blocks // 4), max(1, 2 * blocks // 3)))
    found = (usual[0] if student is None else student, usual[1] if teacher is None else teacher)
    if not all(1 <= depth <= blocks for depth in found):
        raise DiffxError(
            f"plugins.{name}.depth={found[0]} and teacher_depth={found[1]} count blocks from 1, and the backbone has "
            f"{blocks} of its width; type numbers from 1 to {blocks}."
        )
    return found


def check_loss(name: str, loss: str) -> None:
    """Refuse an unknown loss."""
    if loss not in WEIGHTS:
        raise DiffxError(f"plugins.{name}.loss={loss} is not known; type one of {', '.join(WEIGHTS)}.")


def check_times(name: str, objective: Objective) -> None:
    """Refuse times that are no share of a path."""
    if "noise_levels" in objective.gives:
        raise DiffxError(
            f"plugins.{name} shows its teacher an earlier time, and the times of this objective are noise levels "
            "without an end; type objective=linear or objective=ddpm."
        )
