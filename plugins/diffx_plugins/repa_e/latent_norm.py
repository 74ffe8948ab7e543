"""The normalisation between autoencoder and network: BatchNorm without affine, its statistics those of all ranks."""

import torch
import torch.distributed as dist
from torch import Tensor, nn

EPS = 1e-4


class LatentNorm(nn.Module):
    """Raw latents (B, C, h, w) to mean 0 and variance 1 in each channel.

    mean, var: running statistics, which move at every by_batch(). average_mean, average_var: their exponential moving
    average beside that of the network, with which samples are scaled back.
    """

    mean: Tensor
    var: Tensor
    average_mean: Tensor
    average_var: Tensor

    def __init__(self, channels: int, momentum: float = 0.1) -> None:
        super().__init__()
        self.momentum = momentum
        for prefix in ("", "average_"):
            self.register_buffer(f"{prefix}mean", torch.zeros(channels))
            self.register_buffer(f"{prefix}var", torch.ones(channels))

    def begin(self, shift: list[float], scale: list[float]) -> None:
        """From the statistics that the latents were scaled with: (raw - shift)·scale."""
        channels = len(self.mean)
        mean = torch.tensor(shift).expand(channels)
        var = torch.tensor(scale).expand(channels) ** -2
        for prefix in ("", "average_"):
            getattr(self, f"{prefix}mean").copy_(mean)
            getattr(self, f"{prefix}var").copy_(var)

    def by_running(self, raw: Tensor) -> Tensor:
        """With the running statistics, which stay."""
        return (raw - _wide(self.mean)) / (_wide(self.var) + EPS).sqrt()

    @torch.no_grad()
    def by_batch(self, raw: Tensor) -> Tensor:
        """With the statistics of the batch over all ranks, towards which the running ones move by `momentum`."""
        raw = raw.float()
        sums = torch.stack([raw.new_full(self.mean.shape, raw[:, 0].numel()), raw.sum((0, 2, 3))])
        count, total = _summed(sums)
        mean = total / count
        squares = _summed((raw - _wide(mean)).square().sum((0, 2, 3)))
        var = squares / count
        if self.training:
            self._move(mean, squares / (count - 1))
        return (raw - _wide(mean)) / (_wide(var) + EPS).sqrt()

    def _move(self, mean: Tensor, var: Tensor) -> None:
        """A batch that is not finite moves nothing: its step will be skipped."""
        whole = mean.isfinite().all() & var.isfinite().all()
        for running, new in ((self.mean, mean), (self.var, var)):
            running.copy_(torch.where(whole, running.lerp(new, self.momentum), running))

    @torch.no_grad()
    def follow(self, bad: Tensor, decay: float) -> None:
        """The averages after an optimizer step."""
        weight = (1 - decay) * (~bad).float()
        self.average_mean.lerp_(self.mean, weight.to(self.mean))
        self.average_var.lerp_(self.var, weight.to(self.var))

    def undone(self, x: Tensor) -> Tensor:
        """Normalised latents as the decoder takes them, by the averages."""
        return x.float() * (_wide(self.average_var) + EPS).sqrt() + _wide(self.average_mean)


def _wide(statistic: Tensor) -> Tensor:
    return statistic.view(1, -1, 1, 1)


def _summed(sums: Tensor) -> Tensor:
    if dist.is_initialized() and dist.get_world_size() > 1 and not sums.is_meta:  # meta: operations are being counted
        dist.all_reduce(sums)
    return sums
