"""A network of the run's own as a teacher: its stream, without a gradient."""

from collections.abc import Callable

import torch
from torch import Tensor

from diffx.backbone.protocol import Backbone, Condition, Plain, RunBlock, walk_blocks
from diffx.errors import DiffxError
from diffx.tokens import Tokens

Around = Callable[..., Tokens]


class _Surrounded(Plain):
    """A passage on which every block runs inside around(run, tokens, cond, *given)."""

    def __init__(self, around: Around, given: tuple[Tensor, ...]) -> None:
        self._around, self._given = around, given

    def through(self, depth: int, run: RunBlock, tokens: Tokens, cond: Tensor) -> Tokens:
        return self._around(run, tokens, cond, *self._given)


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
    def __call__(
        self, x: Tensor, t: Tensor, y: Condition, depth: int, around: Around | None = None, *given: Tensor
    ) -> Tensor:
        """around: what every block runs inside, called with (run, tokens, cond, *given). Raises DiffxError where the
        stream has another width than the network's."""
        (net,) = self._net
        if depth > net.wide_blocks and net.narrows_at is not None:
            raise DiffxError(
                f"A teacher after block {depth} is asked for, and this {type(net).__name__} has another width from "
                f"there on; type a teacher's depth of at most {net.wide_blocks}."
            )
        passage = _Surrounded(around, given) if around else Plain()
        tokens, _ = walk_blocks(net, x, t, y, passage, until=depth)
        return tokens.x[:, : net.grid_tokens]
