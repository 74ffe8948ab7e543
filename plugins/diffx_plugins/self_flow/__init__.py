"""Self-Flow (arXiv 2603.06507), and with separated attention DTS + AS (arXiv 2607.02508): two times in one image."""

import torch
from torch import Tensor

from diffx.backbone import Backbone
from diffx.backbone.protocol import RunBlock
from diffx.errors import DiffxError
from diffx.plugin import Aux, Batch, Plugin, Schedule, Seen
from diffx.step import fed
from diffx.tokens import Tokens, at_places, keep, scatter
from diffx_plugins.sra import WEIGHTS, alignment_head, before, check_loss, check_times, depths_of, distance

INTERVAL = 0.2


class SelfFlow(Plugin):
    """Every token has one of two times, a share mask_ratio of them the sample's and the rest a second one, with the
    same noise; the student is aligned with the average, as in SRA, which sees a less noisy image.

    separate False (Self-Flow): all tokens attend to each other, and the average sees the whole image at the smaller
    time. separate True (DTS + AS): tokens attend within their group, and the average sees the same groups, each at
    max(t − 0.2 u, 0) with its own u. Labels reach the average undropped, as released. loss and weight: as SRA's, "cos"
    and 0.5 in the release, which has one script for both.
    """

    needs = ("ema", "t", "noise")

    def __init__(
        self,
        depth: int | None = None,
        teacher_depth: int | None = None,
        mask_ratio: float = 0.25,
        separate: bool = False,
        loss: str = "cos",
        weight: float | Schedule | None = None,
    ) -> None:
        check_loss("self_flow", loss)
        super().__init__(WEIGHTS[loss] if weight is None else weight)
        self.kind = loss
        if not 0 < mask_ratio < 1:
            raise DiffxError(
                f"plugins.self_flow.mask_ratio={mask_ratio} is the share of tokens at the first of two times; type a "
                "number between 0 and 1, for instance 0.25."
            )
        self.depth, self.teacher_depth, self.mask_ratio = depth, teacher_depth, mask_ratio
        self.separate = self.whole = separate

    def setup(self, backbone: Backbone) -> None:
        check_times("self_flow", self.objective)
        student, self.teacher = depths_of("self_flow", backbone.wide_blocks, self.depth, self.teacher_depth)
        self.first = int(backbone.grid_tokens * self.mask_ratio)
        if not self.first:
            raise DiffxError(
                f"plugins.self_flow.mask_ratio={self.mask_ratio} of {backbone.grid_tokens} tokens is none; type more."
            )
        if self.separate and (backbone.skips or backbone.extra_tokens or backbone.tokens_after):
            raise DiffxError(
                f"plugins.self_flow.separate runs every block on parts of the grid, and this {type(backbone).__name__} "
                "has skips or tokens beside the grid; type plugins.self_flow.separate=false."
            )
        self.reads, self.side = (student,), backbone.side
        self.wraps = tuple(range(len(backbone.blocks))) if self.separate else ()
        self.head = alignment_head(backbone.hidden_size)

    def retime(self, t: Tensor, rng: torch.Generator) -> Aux:
        count = self.side**2
        order = torch.rand(len(t), count, generator=rng, device=rng.device).argsort(1)
        groups = [part.sort(1).values for part in order.split([self.first, count - self.first], dim=1)]
        both = torch.stack([t, self.objective.times(len(t), rng)], dim=1)
        return {"times": self._spread(both, groups[0]), "both": both, "group0": groups[0], "group1": groups[1]}

    def _spread(self, both: Tensor, group0: Tensor) -> Tensor:
        """Of two values (B, 2) the first at the places of group 0 and the second elsewhere: (B, N)."""
        return both[:, 1:].expand(-1, self.side**2).scatter(1, group0, both[:, :1].expand_as(group0))

    def prepare(self, batch: Batch, rng: torch.Generator) -> Aux:
        both, groups = batch["both"], (batch["group0"], batch["group1"])
        if self.separate:
            earlier = before(both, INTERVAL * torch.rand(both.shape, generator=rng, device=rng.device))
            within: tuple[object, ...] = (in_groups, *groups)
        else:
            earlier, within = both.amin(1, keepdim=True).expand(-1, 2), ()
        given = fed(self.objective, self.side, batch["x"], batch["noise"], self._spread(earlier, groups[0]))
        return {"teacher": batch["ema"](*given, batch["y"], self.teacher, *within)}

    def around(self, depth: int, run: RunBlock, tokens: Tokens, cond: Tensor, aux: Aux) -> Tokens:
        return in_groups(run, tokens, cond, aux["group0"], aux["group1"])

    def loss(self, seen: Seen, out: Tensor, aux: Aux) -> Tensor:
        tokens = seen[self.reads[0]]
        return distance(self.kind, self.head(tokens.x), at_places(Tokens(aux["teacher"]), tokens.ids))


def in_groups(run: RunBlock, tokens: Tokens, cond: Tensor, *groups: Tensor) -> Tokens:
    """A block on each group of positions (B, K) by itself, so that tokens attend within their group."""
    x = tokens.x
    for group in groups:
        x = scatter(x, group, run(keep(tokens, group), cond).x)
    return Tokens(x, tokens.ids, tokens.cond)
