"""LayerSync: a shallow block aligned with a deep one (2025, arXiv 2510.12581)."""

import torch.nn.functional as F
from torch import Tensor

from diffx.backbone import Backbone
from diffx.errors import DiffxError
from diffx.plugin import Aux, Plugin, Schedule, Seen
from diffx.tokens import at_common_places


class LayerSync(Plugin):
    """Aligns the tokens after block `shallow` with those after block `deep` of the same pass: −cos, weight 0.2.

    Both are raw residual streams and count blocks from 1; None is 8 and 16 for 24 blocks and more, and a third and two
    thirds of the blocks below. No gradient flows through the deep tokens. No projector, no teacher, no parameter. The
    official code subtracts only the last of several pairs; here there is one pair, as in its single mode.
    """

    joins = True

    def __init__(self, shallow: int | None = None, deep: int | None = None, weight: float | Schedule = 0.2) -> None:
        super().__init__(weight)
        self.shallow, self.deep = shallow, deep

    def setup(self, backbone: Backbone) -> None:
        blocks = len(backbone.blocks)
        third = 8 if blocks >= 24 else max(1, blocks // 3)
        shallow = third if self.shallow is None else self.shallow
        deep = 2 * third if self.deep is None else self.deep
        if not 1 <= shallow < deep <= blocks:
            raise DiffxError(
                f"plugins.layersync.shallow={shallow} and deep={deep} count blocks from 1, and the backbone has "
                f"{blocks}; type two numbers with 1 <= shallow < deep <= {blocks}."
            )
        self.reads = (shallow, deep)

    def loss(self, seen: Seen, out: Tensor, aux: Aux) -> Tensor:
        shallow, deep = at_common_places(*(seen[depth] for depth in self.reads))
        return -F.cosine_similarity(shallow.float(), deep.detach().float(), dim=-1, eps=1e-12).mean()
