"""The Inception Score, streaming."""

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from diffx.errors import DiffxError
from diffx.metrics.image_metric import ImageMetric, Network
from diffx.processes.gather import all_reduced

SPLIT = 5000


class InceptionScore(ImageMetric):
    """exp of the mean of KL(p(y|x) | p(y)) (Salimans et al. 2016), the mean over splits of consecutive samples.

    As in the ADM suite: splits of 5,000 samples in their order, unshuffled, the last of them smaller where the number
    does not divide. So the order matters: samples sorted by class make every split poor in classes and the score low.
    Rank r has to be given samples r, r + world, ... in this order.

    Args:
        network: images to logits (B, C).
    """

    higher_is_better = True
    full_state_update = True  # the place of a sample depends on how many came before

    sums: Tensor
    """Of each split: the sum of p (C,), of p log p, and the number of samples, float64."""
    seen: Tensor

    def __init__(self, network: Network, split: int = SPLIT, **settings: Any) -> None:
        super().__init__(network, dist_sync_fn=all_reduced, **settings)
        self.split = split
        self.add_state("sums", torch.zeros(0, 0, dtype=torch.float64), "sum")
        self.add_state("seen", torch.zeros((), dtype=torch.int64), "sum")

    def update(self, images: Tensor) -> None:
        """Add this process's next images."""
        log_p = self.features(images).to(self.sums.device).double().log_softmax(dim=1)
        p = log_p.exp()
        rows = torch.cat([p, (p * log_p).sum(1, keepdim=True), torch.ones_like(p[:, :1])], dim=1)
        together = self.sync_on_compute and dist.is_initialized()
        rank, world = (dist.get_rank(), dist.get_world_size()) if together else (0, 1)
        places = (rank + world * (self.seen + torch.arange(len(rows), device=rows.device))) // self.split
        grown = torch.zeros(max(int(places.max()) + 1, len(self.sums)), rows.shape[1]).to(rows)
        grown[: len(self.sums), : self.sums.shape[1]] = self.sums
        self.sums = grown.index_add(0, places, rows)
        self.seen = self.seen + len(rows)

    def compute(self) -> Tensor:
        """() float64, between 1 and the number of classes. Raises DiffxError where there are no images."""
        if not self.seen:
            raise DiffxError("An Inception Score needs at least 1 image, and there are 0.")
        used = self.sums[self.sums[:, -1] > 0]
        count = used[:, -1:]
        marginal = used[:, :-2] / count
        kl = used[:, -2] / count[:, 0] - torch.special.xlogy(marginal, marginal).sum(1)
        return kl.exp().mean()
