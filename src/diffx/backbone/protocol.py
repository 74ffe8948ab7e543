"""What a backbone is, and the one walk over its blocks.

A backbone knows nothing of training methods. `walk` runs it: with PLAIN, which does nothing on the way, for sampling
and for `forward`; with a passage of plugins for a training step.
"""

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map

from diffx.backbone.text import TextShape
from diffx.tokens import Tokens

Condition = Any
"""What conditions a sample: labels (B,), or a structure of tensors with a row for each sample, such as Text."""
Shape = tuple[int, ...]
RunBlock = Callable[[Tokens, Tensor], Tokens]


@dataclass
class Memory:
    """What outlives a block within one forward.

    states: depth -> the stream (B, N, D) before that block, where a later block merges it. attends: the blocks whose
    queries and keys are wanted; a backbone puts them, (B, H, N, d) each, into `attention`. other: what a family carries
    beside the stream from the embedding on, such as the text of MM-DiT, or the image that DDT's decoder starts from.
    """

    states: dict[int, Tensor] = field(default_factory=dict)
    attends: Collection[int] = ()
    attention: dict[int, tuple[Tensor, Tensor]] = field(default_factory=dict)
    other: dict[str, Any] = field(default_factory=dict)


class Backbone(nn.Module):
    """A network on a square grid of side² tokens, cut into parts that a walk calls.

    Declared:
        blocks: what the stream walks through, one after the other; depth d means "before block d".
        hidden_size: width D of the stream. shape: (C, H, W) of the image that it denoises. num_classes: of its labels;
            0 where text conditions it.
        text: the shape of the Text that conditions it; None: labels do.
        extra_tokens: how many tokens without a place stand behind the grid at depth 0.
        borders: depths at which `switch` changes the stream; no span of a plugin may lie across one.
        tokens_after: border -> how many tokens there are behind it, where the number changes.
        skips: block -> the depth whose state it merges.
        streams: name -> shape of all that the state consists of. One of them, "image", is the state itself; of several
            the state is their packing (see `pack`).
        token_times: whether times may be given for each token (B, N).
        two_times: whether times may be pairs (B, 2), t and r: the output is then about the stretch from r to t.
        starts_as_identity: whether a fresh block changes nothing.
        reads_samples: whether blocks read or change what memory.other holds of each sample, such as its text, so that
            none can run on some of the samples.
        narrows_at: the depth from which on the stream has another width than hidden_size, if there is one.
        stream_dtype: what the stream is kept in before and behind every block; None: as the family makes it, float32.
    """

    blocks: nn.ModuleList
    hidden_size: int
    side: int
    shape: tuple[int, int, int]
    num_classes: int = 0
    text: TextShape | None = None
    extra_tokens: int = 0
    borders: tuple[int, ...] = ()
    tokens_after: Mapping[int, int] = {}
    skips: Mapping[int, int] = {}
    token_times: bool = False
    two_times: bool = False
    starts_as_identity: bool = False
    reads_samples: bool = False
    narrows_at: int | None = None
    stream_dtype: torch.dtype | None = None

    @property
    def streams(self) -> Mapping[str, Shape]:
        return {"image": self.shape}

    @property
    def grid_tokens(self) -> int:
        """How many tokens the grid has."""
        return self.side * self.side

    @property
    def wide_blocks(self) -> int:
        """So many blocks, from the first on, leave the stream hidden_size wide."""
        return len(self.blocks) if self.narrows_at is None else self.narrows_at - 1

    # Implemented by a family.

    def embed(self, x: Tensor, t: Tensor, y: Condition, memory: Memory) -> tuple[Tokens, Tensor]:
        """The state, times (B,) or (B, N), the condition -> all tokens and the conditioning (B, C) of the sample. What
        a border or a block needs of them later goes into memory.other."""
        raise NotImplementedError

    def run_block(self, depth: int, tokens: Tokens, cond: Tensor, memory: Memory) -> Tokens:
        """Block `depth` on the tokens present."""
        raise NotImplementedError

    def switch(self, depth: int, tokens: Tokens, cond: Tensor, memory: Memory) -> Tokens:
        """What happens to the whole stream at a border."""
        return tokens

    def head(self, tokens: Tokens, cond: Tensor) -> Tensor:
        """All tokens -> the prediction, as the state is packed; an image alone may come with 2C channels."""
        raise NotImplementedError

    def null_condition(self, y: Condition) -> Condition:
        """What stands for "no condition", shaped as y: of labels the one behind the classes."""
        return torch.full_like(y, self.num_classes)

    def reference(self) -> "Backbone":
        """The plain network of these sizes, to which costs are related."""
        return self

    # The same for all.

    def forward(self, x: Tensor, t: Tensor, y: Condition) -> Tensor:
        """The prediction for the noised state x at times t (B,) under the condition y."""
        return walk(self, x, t, y)


class Passage(Protocol):
    """What happens to the tokens between blocks. In the order of a depth: arrive, the backbone's switch, depart, and
    then the block itself inside `through`."""

    attends: Collection[int]

    def arrive(self, depth: int, tokens: Tokens, cond: Tensor) -> Tokens: ...
    def depart(self, depth: int, tokens: Tokens, cond: Tensor) -> Tokens: ...
    def through(self, depth: int, run: RunBlock, tokens: Tokens, cond: Tensor) -> Tokens: ...
    def attended(self, depth: int, queries_and_keys: tuple[Tensor, Tensor]) -> None: ...


class Plain:
    """A passage on which nothing happens."""

    attends: Collection[int] = ()

    def arrive(self, depth: int, tokens: Tokens, cond: Tensor) -> Tokens:
        return tokens

    def depart(self, depth: int, tokens: Tokens, cond: Tensor) -> Tokens:
        return tokens

    def through(self, depth: int, run: RunBlock, tokens: Tokens, cond: Tensor) -> Tokens:
        return run(tokens, cond)

    def attended(self, depth: int, queries_and_keys: tuple[Tensor, Tensor]) -> None:
        """Nobody asked."""


PLAIN = Plain()


def walk(net: Backbone, x: Tensor, t: Tensor, y: Condition, passage: Passage = PLAIN) -> Tensor:
    """The prediction for the state x at times t under the condition y. Everything that runs a backbone runs this."""
    return net.head(*walk_blocks(net, x, t, y, passage))


def walk_blocks(
    net: Backbone, x: Tensor, t: Tensor, y: Condition, passage: Passage = PLAIN, until: int | None = None
) -> tuple[Tokens, Tensor]:
    """The stream before the head, or before block `until`, where all has happened that comes before a read; and the
    conditioning of the sample."""
    last = len(net.blocks) if until is None else until
    memory, sources = Memory(attends=passage.attends), frozenset(net.skips.values())
    tokens, cond = net.embed(x, t, y, memory)
    for depth in range(last + 1):
        if depth in sources:
            memory.states[depth] = tokens.x
        tokens = passage.arrive(depth, tokens, cond)
        if depth == until:
            break
        if depth in net.borders:
            tokens = net.switch(depth, tokens, cond, memory)
        tokens = passage.depart(depth, tokens, cond)
        if depth < last:
            tokens = passage.through(depth, _block(net, depth, memory), tokens, cond)
            if depth in passage.attends:
                passage.attended(depth, memory.attention[depth])
    return tokens, cond


def _block(net: Backbone, depth: int, memory: Memory) -> RunBlock:
    def run(tokens: Tokens, cond: Tensor) -> Tokens:
        return _in_stream_dtype(net, net.run_block(depth, _in_stream_dtype(net, tokens), cond, memory))

    return run


def _in_stream_dtype(net: Backbone, tokens: Tokens) -> Tokens:
    return tokens if net.stream_dtype is None else tokens._replace(x=tokens.x.to(net.stream_dtype))


def pack(parts: Mapping[str, Tensor]) -> Tensor:
    """Streams, each (B, ...), as one state: (B, K, 1, 1) with K all their numbers one after the other; one stream alone
    stays as it is. Samplers and objectives, which work number by number, need not know."""
    if len(parts) == 1:
        return next(iter(parts.values()))
    return torch.cat([part.flatten(1) for part in parts.values()], dim=1)[..., None, None]


def unpack(state: Tensor, streams: Mapping[str, Shape]) -> dict[str, Tensor]:
    """The streams of a state, or of what is shaped as one, by name: (B, *shape)."""
    if len(streams) == 1:
        return dict.fromkeys(streams, state)
    sizes = [torch.Size(shape).numel() for shape in streams.values()]
    parts = state.flatten(1).split(sizes, dim=1)
    return {name: part.unflatten(1, shape) for (name, shape), part in zip(streams.items(), parts, strict=True)}


def where_dropped(dropped: Tensor, null: Condition, y: Condition) -> Condition:
    """The condition y with that of the samples `dropped` (B,) replaced by `null`."""

    def choose(instead: Tensor, given: Tensor) -> Tensor:
        return torch.where(dropped.view(-1, *(1 for _ in given.shape[1:])), instead, given)

    return tree_map(choose, null, y)


def state_shape(net: Backbone) -> Shape:
    """(C, H, W) of the state: the image's, or (K, 1, 1) of a packing."""
    if len(net.streams) == 1:
        return net.shape
    return (sum(torch.Size(shape).numel() for shape in net.streams.values()), 1, 1)
