"""MDT: masked diffusion transformer (Gao et al. 2023, arXiv 2303.14389), v1 and v2."""

from collections.abc import Sequence
from typing import Protocol, TypeGuard

import torch
from torch import Tensor, nn

from diffx.backbone import Backbone
from diffx.backbone.layers.position import add_position
from diffx.errors import DiffxError
from diffx.plugin import Plugin, Span
from diffx.tokens import Tokens, scatter

LENGTHS = 4  # token counts that an interval of ratios is quantised to


def _interval(mask_ratio: float | Sequence[float]) -> tuple[float, float]:
    """The least and the greatest ratio."""
    ends = [mask_ratio] * 2 if isinstance(mask_ratio, int | float) else list(mask_ratio)
    if len(ends) == 2 and all(isinstance(end, int | float) for end in ends) and 0 < ends[0] <= ends[1] < 1:
        return ends[0], ends[1]
    raise DiffxError(
        f"plugins.mdt.mask_ratio={mask_ratio} is the share of tokens removed, strictly between 0 and 1; "
        "type 0.3, or [0.3,0.5] for a ratio drawn every step."
    )


class WithDecoder(Protocol):
    """What MDT asks of a backbone: its width, its decoder's start and position, and blocks like its own."""

    hidden_size: int
    decoder_start: int
    decoder_pos_embed: nn.Parameter

    def new_block(self) -> nn.Module: ...


def has_decoder(backbone: object) -> TypeGuard[WithDecoder]:
    """isinstance would not do: from Python 3.12 on it asks the class alone, which has no parameters."""
    return all(hasattr(backbone, name) for name in ("hidden_size", "decoder_start", "decoder_pos_embed", "new_block"))


class MDT(Plugin):
    """A second, masked pass over every batch: the encoder sees the kept tokens, a side-interpolater fills in the rest.

    mask_ratio: the share removed, 0.3 in v1; or an interval, [0.3, 0.5] in v2, from which one value is drawn a step. v2
    draws it continuously, here it is one of four equally likely midpoints, with the same mean. The masked pass has the
    same times, fresh noise and fresh label dropout; its loss, on all tokens, is added 1:1. The backbone must have a
    decoder (backbone.decoder_layers); its decoder position, relative bias and skips are part of MDT at sampling too.
    """

    view = "masked"
    brings_backbone = True

    def __init__(self, mask_ratio: float | Sequence[float] = 0.3) -> None:
        super().__init__()
        low, high = _interval(mask_ratio)
        steps = [(k + 0.5) / LENGTHS for k in range(LENGTHS)]
        self.rate = low if low == high else tuple(low + (high - low) * s for s in steps)

    def setup(self, backbone: Backbone) -> None:
        if not has_decoder(backbone):
            raise DiffxError(
                f"plugins.mdt needs the decoder of an MDT backbone, and this is a {type(backbone).__name__}; "
                "type backbone._target_=diffx.backbone.MDTBackbone, as conf/plugins/mdt.yaml does."
            )
        self.span = Span(0, backbone.decoder_start, self.rate)
        self.mask_token = nn.Parameter(torch.randn(1, 1, backbone.hidden_size) * 0.02)
        self.side_block = backbone.new_block()
        self._backbone = [backbone]  # in a list, so that its parameters are not this module's too

    def restore(self, tokens: Tokens, outer: Tokens, cond: Tensor, aux: dict[str, Tensor]) -> Tokens:
        """Kept tokens come back as they are; masked places get the side-interpolater's output, which reads all."""
        keep = aux["keep"]
        padded = scatter(self.mask_token.to(tokens.x.dtype).expand_as(outer.x), keep, tokens.x)
        position = self._backbone[0].decoder_pos_embed
        cond = cond if outer.cond is None else outer.cond
        filled = self.side_block(add_position(padded, position, outer.ids), cond, outer.ids)
        # The backbone adds the decoder position to every token when the decoder starts: here it is taken off again.
        filled = add_position(filled, -position, outer.ids)
        masked = torch.ones(padded.shape[:2], dtype=torch.bool, device=keep.device).scatter(1, keep, False)
        return Tokens(torch.where(masked.unsqueeze(-1), filled, padded), outer.ids, outer.cond)
