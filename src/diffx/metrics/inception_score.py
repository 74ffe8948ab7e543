"""The Inception Score, streaming."""

import torch
import torch.distributed as dist
from torch import Tensor

SPLIT = 5000


class InceptionScore:
    """exp of the mean of KL(p(y|x) | p(y)) (Salimans et al. 2016), the mean over splits of consecutive samples.

    As in the ADM suite: splits of 5,000 samples in their order, unshuffled, the last of them smaller where the number
    does not divide. So the order matters: samples sorted by class make every split poor in classes and the score low.
    """

    def __init__(self, split: int = SPLIT) -> None:
        self.split = split
        # Of each split: the sum of p (C,), of p log p, and the number of samples.
        self.sums = torch.zeros(0, 0, dtype=torch.float64)

    def update(self, logits: Tensor, indices: Tensor) -> None:
        """Add logits (B, C) of the samples with these numbers (B,)."""
        log_p = logits.double().log_softmax(dim=1)
        p = log_p.exp()
        rows = torch.cat([p, (p * log_p).sum(1, keepdim=True), torch.ones_like(p[:, :1])], dim=1).cpu()
        places = torch.div(indices.cpu(), self.split, rounding_mode="floor")
        self._reserve(int(places.max()) + 1, rows.shape[1])
        self.sums.index_add_(0, places, rows)

    def all_reduce(self) -> None:
        """Sum over all processes, in place."""
        if not dist.is_initialized():
            return
        device = torch.device("cuda") if dist.get_backend() == "nccl" else torch.device("cpu")
        shape = torch.tensor(self.sums.shape, device=device)
        dist.all_reduce(shape, dist.ReduceOp.MAX)
        self._reserve(*shape.tolist())
        sums = self.sums.to(device)
        dist.all_reduce(sums)
        self.sums = sums.cpu()

    @property
    def value(self) -> float:
        """Between 1 and the number of classes."""
        used = self.sums[self.sums[:, -1] > 0]
        count = used[:, -1:]
        marginal = used[:, :-2] / count
        kl = used[:, -2] / count[:, 0] - torch.special.xlogy(marginal, marginal).sum(1)
        return kl.exp().mean().item()

    def _reserve(self, splits: int, width: int) -> None:
        grown = torch.zeros(max(splits, len(self.sums)), width, dtype=torch.float64)
        grown[: len(self.sums), : self.sums.shape[1]] = self.sums
        self.sums = grown
