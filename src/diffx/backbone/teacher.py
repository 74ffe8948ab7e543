"""A network of the run's own as a teacher: its stream, without a gradient."""

import torch
from torch import Tensor

from diffx.backbone.protocol import Backbone, Condition, walk_blocks


class NetworkTeacher:
    """The grid's tokens (B, N, D) of a frozen network after `depth` blocks, for the noised state, times and condition
    as the network is fed. No head. It is handed to prepare() as it is, since each plugin asks for depths and times of
    its own.

    The network is held in a tuple, so that it becomes nobody's submodule.
    """

    takes: tuple[str, ...] = ()

    def __init__(self, net: Backbone) -> None:
        self._net = (net,)

    @torch.no_grad()
    def __call__(self, x: Tensor, t: Tensor, y: Condition, depth: int) -> Tensor:
        (net,) = self._net
        tokens, _ = walk_blocks(net, x, t, y, until=depth)
        return tokens.x[:, : net.grid_tokens]
