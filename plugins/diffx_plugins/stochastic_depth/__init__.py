"""Stochastic depth (Huang et al. 2016, arXiv 1603.09382): the control for token routing that nobody runs."""

import torch
from torch import Tensor

from diffx.backbone import Backbone
from diffx.backbone.protocol import RunBlock
from diffx.errors import DiffxError
from diffx.plugin import Aux, Batch, Plugin
from diffx.tokens import Tokens

RULES = ("linear", "constant")


class StochasticDepth(Plugin):
    """A random share of the samples skips a block, anew in every block: the block runs on round(B (1 − p)) of them.

    What it adds to those is scaled by B / kept, so that its mean is that of the whole batch. rate: p, reached in the
    last block by "linear" (from 0 in the first) or held by "constant". start, end: the first and last block, inclusive,
    that samples may skip; None is the last. At least one sample runs. Nothing at sampling. No paper has it on DiT.
    """

    across_samples = True

    def __init__(self, rate: float = 0.2, rule: str = "linear", start: int = 0, end: int | None = None) -> None:
        super().__init__()
        if not 0 <= rate < 1:
            raise DiffxError(f"plugins.stochastic_depth.rate={rate} is the share that skips; type a number in [0, 1).")
        if rule not in RULES:
            raise DiffxError(f"plugins.stochastic_depth.rule={rule} is not known; type one of {RULES}.")
        self.rate, self.rule, self.start, self.end = rate, rule, start, end

    def setup(self, backbone: Backbone) -> None:
        if backbone.skips:
            raise DiffxError(
                f"plugins.stochastic_depth runs blocks on fewer samples, and skips join blocks of this "
                f"{type(backbone).__name__}; take a backbone without skips."
            )
        if backbone.reads_samples:
            raise DiffxError(
                f"plugins.stochastic_depth runs blocks on fewer samples, and blocks of this {type(backbone).__name__} "
                "read every sample's text; take a backbone that classes condition."
            )
        blocks = len(backbone.blocks)
        end = blocks - 1 if self.end is None else self.end
        if not 0 <= self.start <= end < blocks:
            raise DiffxError(
                f"plugins.stochastic_depth.start={self.start} and end={end} are no blocks of a backbone of {blocks}; "
                f"type 0 <= start <= end <= {blocks - 1}."
            )
        rise = {d: d / max(1, blocks - 1) if self.rule == "linear" else 1.0 for d in range(self.start, end + 1)}
        self.rates = {d: self.rate * share for d, share in rise.items() if self.rate * share > 0}
        self.wraps = tuple(self.rates)

    def prepare(self, batch: Batch, rng: torch.Generator) -> Aux:
        noise = torch.rand(len(self.wraps), len(batch["x"]), generator=rng, device=rng.device)
        return {"order": noise.argsort(1)}

    def around(self, depth: int, run: RunBlock, tokens: Tokens, cond: Tensor, aux: Aux) -> Tokens:
        batch = len(tokens.x)
        kept = max(1, round(batch * (1 - self.rates[depth])))
        index = aux["order"][self.wraps.index(depth), :kept]
        some = Tokens(tokens.x[index], *(None if part is None else part[index] for part in tokens[1:]))
        added = (run(some, cond[index]).x - some.x) * (batch / kept)
        return Tokens(tokens.x.index_add(0, index, added.to(tokens.x.dtype)), tokens.ids, tokens.cond)
