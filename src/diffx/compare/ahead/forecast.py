"""What curves would be at a larger cost, each with an interval, and which of two would be lower."""

from collections.abc import Sequence
from dataclasses import dataclass
from zlib import crc32

import numpy as np

from diffx.compare.ahead.law import draw_laws, find_drift
from diffx.curves.curve import Curve

DRAWS = 400
PLACES = 40  # costs between the end of the runs and the horizon
SURE = 0.975  # of the draws on one side: the 95 % interval excludes that the methods are equal


@dataclass(frozen=True)
class Forecast:
    """A method's distance beyond its last evaluation: `draws` (draws, costs) on `costs`, ascending from there on."""

    label: str
    metric: str
    costs: np.ndarray
    draws: np.ndarray

    def read(self, share: float) -> np.ndarray:
        """The quantile of the draws at each cost."""
        return np.quantile(self.draws, share, axis=0)

    @property
    def ends(self) -> tuple[float, float, float]:
        """Least, middle and greatest at the horizon: the median within the 95 % interval."""
        low, middle, high = (float(self.read(share)[-1]) for share in (0.025, 0.5, 0.975))
        return low, middle, high


@dataclass(frozen=True)
class Order:
    """A method against the baseline at the horizon.

    `below`: the share of draws in which it is lower. `crossing`: the median cost, within its 95 % interval, at which it
    passes the baseline; None where it does not in most draws, or where nothing can be told.
    """

    forecast: Forecast
    below: float
    crossing: tuple[float, float, float] | None

    @property
    def told(self) -> bool:
        return max(self.below, 1 - self.below) >= SURE


def forecast_metric(
    methods: dict[str, list[Curve]], metric: str, least: float, horizon: float, draws: int = DRAWS
) -> list[Forecast]:
    """Forecasts from the seeds' curves of each method; `least` is what real images score, 0 where it is not known."""
    drift = find_drift(list(methods.values()), least)
    return [forecast_method(label, metric, curves, least, drift, horizon, draws) for label, curves in methods.items()]


def forecast_method(
    label: str, metric: str, curves: Sequence[Curve], least: float, drift: float, horizon: float, draws: int
) -> Forecast:
    """One method: the laws that its seeds allow, each off by its own drift, which grows with the root of doublings."""
    rng = np.random.default_rng(crc32(f"{label} {metric}".encode()))
    end = min(curve.end for curve in curves)
    costs = np.geomspace(end, horizon, PLACES)
    laws = draw_laws(curves, least, draws, rng)
    values = np.array([law.value(costs) for law in laws])
    off = rng.normal(0, drift, (draws, 1)) * np.sqrt(np.log2(costs / end))
    return Forecast(label, metric, costs, np.maximum(values * np.exp(off), least))


def compare_forecasts(one: Forecast, base: Forecast) -> Order:
    """How often the one is lower at the horizon, and where it passes the other after the end of both."""
    costs = np.geomspace(max(one.costs[0], base.costs[0]), one.costs[-1], PLACES)
    gaps = read_draws(one, costs) - read_draws(base, costs)
    below = float(np.mean(gaps[:, -1] < 0))
    turned = np.sign(gaps) == np.sign(gaps[:, -1:])
    started_other = ~turned[:, 0]
    crossing = None
    if max(below, 1 - below) >= SURE and started_other.mean() > 0.5:
        last_other = np.array([np.flatnonzero(~row)[-1] for row in turned[started_other]])
        low, middle, high = np.quantile(costs[last_other + 1], (0.025, 0.5, 0.975))
        crossing = (float(low), float(middle), float(high))
    return Order(one, below, crossing)


def read_draws(one: Forecast, costs: np.ndarray) -> np.ndarray:
    """The logarithms of the draws at other costs."""
    return np.array([np.interp(np.log(costs), np.log(one.costs), np.log(np.maximum(draw, 1e-300)))
                     for draw in one.draws])  # fmt: skip
