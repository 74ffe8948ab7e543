"""MaskDiT: masked training with a reconstruction of what is masked (Zheng et al. 2023, arXiv 2306.09305)."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from diffx.backbone import Backbone, MaskDiTBackbone
from diffx.errors import DiffxError
from diffx.plugin import Aux, Batch, Plugin, Schedule, Seen, Span
from diffx.tokens import Tokens, scatter


class MaskDiT(Plugin):
    """The encoder sees a random share of the tokens, and mask tokens take the place of the rest in the decoder. The
    denoising loss is that of the visible patches alone; on the masked ones the denoised data is pulled to the patch of
    the noised input, normalised, with weight 0.1.

    mask_ratio: the share that is left out, 0.5 as released. The mask token is training only; the decoder is not.
    """

    needs = ("noisy", "t")
    brings_backbone = True

    def __init__(self, mask_ratio: float = 0.5, weight: float | Schedule = 0.1) -> None:
        super().__init__(weight)
        if not 0 <= mask_ratio < 1:
            raise DiffxError(
                f"plugins.maskdit.mask_ratio={mask_ratio} is the share of tokens that the encoder does not see; type a "
                "number in [0, 1), for instance 0.5."
            )
        self.mask_ratio = mask_ratio

    def setup(self, backbone: Backbone) -> None:
        if not isinstance(backbone, MaskDiTBackbone):
            raise DiffxError(
                f"plugins.maskdit needs a backbone with a narrow decoder, and this is a {type(backbone).__name__}; "
                "type backbone._target_=diffx.backbone.MaskDiTBackbone, as conf/plugins/maskdit.yaml does."
            )
        assert backbone.narrows_at is not None
        self.span = Span(0, backbone.narrows_at, self.mask_ratio)
        self.side, self.patch, self.channels = backbone.side, backbone.patch_size, backbone.shape[0]
        self.mask_token = nn.Parameter(0.02 * torch.randn(1, 1, backbone.decoder_width))

    def prepare(self, batch: Batch, rng: torch.Generator) -> Aux:
        return {"noisy": batch["noisy"], "t": batch["t"]}

    def restore(self, tokens: Tokens, outer: Tokens, cond: Tensor, aux: Aux) -> Tokens:
        mask = self.mask_token.to(tokens.x.dtype).expand(*outer.x.shape[:2], -1)
        return Tokens(scatter(mask, aux["keep"], tokens.x), outer.ids, outer.cond)

    def _visible(self, aux: Aux) -> Tensor:
        """1 for each token (B, N) that the encoder sees, 0 for the others."""
        keep = aux["keep"]
        return torch.zeros(len(keep), self.side**2, device=keep.device).scatter(1, keep, 1.0)

    def visible(self, aux: Aux) -> Tensor:
        grid = self._visible(aux).unflatten(1, (1, self.side, self.side))
        return grid.repeat_interleave(self.patch, 2).repeat_interleave(self.patch, 3)

    def loss(self, seen: Seen, out: Tensor, aux: Aux) -> Tensor:
        noisy, masked = aux["noisy"], 1 - self._visible(aux)
        denoised = self.objective.data(out[:, : self.channels].float(), noisy, aux["t"])
        predicted, target = (F.unfold(image, self.patch, stride=self.patch).mT for image in (denoised, noisy))
        centred = target - target.mean(-1, keepdim=True)
        target = centred / (target.var(-1, keepdim=True) + 1e-6).sqrt()
        error = (predicted - target).square().mean(-1)
        return ((error * masked).sum(1) / masked.sum(1).clamp(min=1)).mean()
