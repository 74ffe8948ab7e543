"""How a distance falls with training compute over networks of many sizes: one power law, and how far the networks leave
it open.

y = scale · flops ** -exponent, by least squares of the logarithms, a point a network (Peebles & Xie 2022, arXiv
2212.09748, figure 8, draws their FID-50K so; the law and its interval are ours). The interval is a bootstrap over
networks and over the seeds of each: the networks scatter around any law, which is most of what leaves it open.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

DRAWS = 2000
FEWEST = 4  # networks, with less of which a line says nothing that its points do not


@dataclass(frozen=True)
class Network:
    """One network's end: FLOPs of its training, the distance of each seed, and the group that it is drawn in."""

    label: str
    group: str
    flops: float
    values: tuple[float, ...]

    @property
    def middle(self) -> float:
        """The geometric mean over seeds."""
        return float(np.exp(np.mean(np.log(self.values))))


@dataclass(frozen=True)
class Scaling:
    """The law of a metric. `draws` (draws, 2): the logarithm of the scale, and the exponent, of each bootstrap."""

    metric: str
    networks: tuple[Network, ...]
    scale: float
    exponent: float
    draws: np.ndarray

    def value(self, flops: float | np.ndarray) -> np.ndarray:
        return self.scale * np.asarray(flops) ** -self.exponent

    def band(self, flops: np.ndarray) -> np.ndarray:
        """The 95 % interval at each of these FLOPs (2, places)."""
        logs = self.draws[:, :1] - self.draws[:, 1:] * np.log(flops)[None]
        return np.exp(np.quantile(logs, (0.025, 0.975), axis=0))

    @property
    def interval(self) -> tuple[float, float]:
        """Of the exponent, 95 %."""
        low, high = np.quantile(self.draws[:, 1], (0.025, 0.975))
        return float(low), float(high)

    @property
    def scatter(self) -> float:
        """What networks are off the law by, as a factor: the root mean square of the logarithms."""
        off = [np.log(one.middle / self.value(one.flops)) for one in self.networks]
        return float(np.exp(np.sqrt(np.mean(np.square(off)))))


def fit_scaling(metric: str, networks: Sequence[Network], draws: int = DRAWS) -> Scaling:
    """The law of at least FEWEST networks of different FLOPs, and its bootstrap, the same every time."""
    rng = np.random.default_rng(0)
    x = np.log([one.flops for one in networks])
    level, exponent = _fit_lines(x[None], np.log([one.middle for one in networks])[None])[0]
    picked = rng.integers(0, len(networks), (draws, len(networks)))
    while (flat := np.ptp(x[picked], axis=1) == 0).any():  # one network alone has no slope
        picked[flat] = rng.integers(0, len(networks), (int(flat.sum()), len(networks)))
    y = np.empty(picked.shape)
    for place, one in enumerate(networks):
        here, logs = picked == place, np.log(one.values)
        y[here] = logs[rng.integers(0, len(logs), (int(here.sum()), len(logs)))].mean(1)
    return Scaling(metric, tuple(networks), float(np.exp(level)), float(exponent), _fit_lines(x[picked], y))


def _fit_lines(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Least squares of y = level − exponent · x in each row (rows, points): (rows, 2)."""
    middle_x, middle_y = x.mean(1, keepdims=True), y.mean(1, keepdims=True)
    exponent = -((x - middle_x) * (y - middle_y)).sum(1) / np.square(x - middle_x).sum(1)
    return np.stack([middle_y[:, 0] + exponent * middle_x[:, 0], exponent], axis=1)
