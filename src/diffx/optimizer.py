"""Optimizers that have to know the names of what they train."""

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import AdamW, Muon, Optimizer

Named = tuple[str, nn.Parameter]


class MuonAdamW(Optimizer):
    """Muon for the matrices inside the backbone's blocks, AdamW for all else, as one optimizer (Jordan et al. 2024,
    https://kellerjordan.github.io/posts/muon/; torch.optim.Muon).

    A matrix that several projections share, such as qkv, is made orthogonal as a whole. Left to AdamW: embeddings,
    head, norms, biases, adaLN's modulations (they start at zero and are read as scales and gates; what released
    trainings do with them is not established), and the modules of plugins. Under FSDP2 the update is that of the whole
    matrix, gathered for it; Muon computes it in bfloat16, whose rounding then differs (3 % of an update).

    Args:
        params: named, as nn.Module.named_parameters gives them.
        lr, momentum, nesterov, weight_decay: Muon's.
        adamw_lr, betas, eps, adamw_weight_decay: of all else; None: lr.
        adjust_lr_fn: "match_rms_adamw" scales an update by 0.2 √max(rows, columns), so that one learning rate does for
            both; "original" by √max(1, rows / columns), which is Jordan's.
    """

    takes_names = True

    def __init__(
        self,
        params: Iterable[Named],
        lr: float = 1e-3,
        momentum: float = 0.95,
        nesterov: bool = True,
        weight_decay: float = 0.0,
        adjust_lr_fn: str = "match_rms_adamw",
        adamw_lr: float | None = None,
        betas: Sequence[float] = (0.9, 0.999),
        eps: float = 1e-8,
        adamw_weight_decay: float = 0.0,
    ) -> None:
        named = list(params)
        matrices = [p for name, p in named if is_hidden_matrix(name, p)]
        rest = [p for name, p in named if not is_hidden_matrix(name, p)]
        muon = Muon(
            [{"params": matrices}],
            lr=lr,
            momentum=momentum,
            nesterov=nesterov,
            weight_decay=weight_decay,
            adjust_lr_fn=adjust_lr_fn,
        )
        adamw = AdamW(
            [{"params": rest}],
            lr=lr if adamw_lr is None else adamw_lr,
            betas=(betas[0], betas[1]),
            eps=eps,
            weight_decay=adamw_weight_decay,
        )
        super().__init__([*muon.param_groups, *adamw.param_groups], {})
        self._parts = (muon, adamw)
        self._share()

    def _share(self) -> None:
        """One state and one set of groups: what is saved, loaded or changed here holds for both parts."""
        for part, group in zip(self._parts, self.param_groups, strict=True):
            part.param_groups, part.state = [group], self.state

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        super().load_state_dict(state_dict)
        self._share()

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for part in self._parts:
            part.step()
        return loss


def is_hidden_matrix(name: str, parameter: Tensor) -> bool:
    """Whether a parameter of a training module is a matrix inside a block of the backbone, modulations left out."""
    return parameter.ndim == 2 and name.startswith("backbone.blocks.") and "adaLN" not in name
