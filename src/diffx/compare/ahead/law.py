"""A saturating power law in cost, fitted to all seeds of a method, and how far the data leave it open.

    y(c) = floor + drop · (1 + c / turn) ** -rate

Flat before `turn`, then a power of the cost, then the floor: the shape of a loss against compute in the scaling-law
literature (Kaplan et al. 2020, arXiv 2001.08361; Hoffmann et al. 2022, arXiv 2203.15556), with the turn, since
distances of young models fall faster with every doubling. Three to eight evaluations do not settle four numbers, so
each has a weak prior, and the fit is that of the most likely numbers. What is left open is read from a bootstrap: each
draw resamples the seeds, shifts every evaluation by what the law misses it by, and moves the priors' centres within
their own spread, then fits again (randomise-then-optimise: Bardsley et al. 2014, SIAM J. Sci. Comput. 36). Where the
curve says nothing about a number, its draws are those of the prior.

No law is the truth, so the runs are back-tested on themselves: their last evaluations are held back, forecast from the
others, and what that misses for a doubling of cost is added to every draw (`find_drift`).
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.optimize import least_squares

from diffx.curves.curve import Curve

FEWEST = 3  # evaluations of a curve, with less of which no law is fitted
MISFIT = 0.05  # relative: an evaluation is off the law by at least so much, whatever few evaluations say
DRIFT = 0.25  # in logarithms: what a forecast misses by for a doubling of cost, before any curve has said so
DRIFT_COUNTS = 2  # as many held-back evaluations weigh as much as that
# Priors, chosen before anything was fitted and not moved since. In this order: the share of the last value (above what
# real images score) that never goes away, as its logit; the logarithms of rate and of turn over the first cost.
CENTRES = np.array([0.0, 0.0, 0.0])
SPREADS = np.array([1.8, 0.5, 1.0])  # about uniform on the share; rate 0.37 to 2.7; turn within sevenfold


@dataclass(frozen=True)
class Law:
    """The four numbers; `value` is the distance at a cost."""

    floor: float
    drop: float
    rate: float
    turn: float

    def value(self, cost: np.ndarray) -> np.ndarray:
        return self.floor + self.drop * (1 + np.asarray(cost) / self.turn) ** -self.rate


def can_fit(curves: Sequence[Curve]) -> bool:
    """Whether every seed has FEWEST evaluations or more, all of them above zero."""
    return min(len(curve.x) for curve in curves) >= FEWEST and min(y for curve in curves for y in curve.y) > 0


def fit_law(
    x: np.ndarray,
    y: np.ndarray,
    least: float,
    noise: float,
    centres: np.ndarray = CENTRES,
    start: np.ndarray | None = None,
) -> tuple[Law, np.ndarray]:
    """The most likely law of the points, robust to outliers (soft L1), and its numbers to start another fit from.

    Args:
        x, y: costs and distances of all seeds, (points,).
        least: what real images score, below which no floor lies; 0 where it is not known.
        noise: what a point is off by, relative.
    """
    first, last = float(x.min()), float(np.exp(np.log(y[x >= 0.8 * x.max()]).mean()))
    room = max(last - least, 0.02 * last)

    def read(numbers: np.ndarray) -> Law:
        share, rate, turn, drop = numbers
        floor = last - room + room / (1 + np.exp(-share))
        return Law(floor, float(np.exp(drop)), float(np.exp(rate)), first * float(np.exp(turn)))

    def miss(numbers: np.ndarray) -> np.ndarray:
        off = (np.log(read(numbers).value(x)) - np.log(y)) / noise
        return np.concatenate([off, (numbers[:3] - centres) / SPREADS])

    def slope(numbers: np.ndarray) -> np.ndarray:
        """The derivatives of `miss` by the four numbers, (points + 3, 4)."""
        law, share = read(numbers), 1 / (1 + np.exp(-numbers[0]))
        fall = law.drop * (1 + x / law.turn) ** -law.rate
        by_rate, by_turn = -fall * law.rate * np.log1p(x / law.turn), fall * law.rate * x / (law.turn + x)
        by_share = np.full_like(x, room * share * (1 - share))
        off = np.column_stack([by_share, by_rate, by_turn, fall]) / (noise * (law.floor + fall))[:, None]
        return np.vstack([off, np.column_stack([np.diag(1 / SPREADS), np.zeros(3)])])

    begin = np.append(CENTRES, np.log(2 * y.max())) if start is None else start
    low, high = [-12, -4, -6, np.log(y.min()) - 7], [12, 3, 8, np.log(y.max()) + 12]
    found = least_squares(miss, np.clip(begin, low, high), slope, (low, high), loss="soft_l1", max_nfev=60)
    return read(found.x), found.x


def draw_laws(curves: Sequence[Curve], least: float, draws: int, rng: np.random.Generator) -> list[Law]:
    """Laws that the seeds allow, one a draw of the bootstrap."""
    x, y = join_points(curves)
    law, numbers = fit_law(x, y, least, MISFIT)
    off = np.log(y) - np.log(law.value(x))
    noise = max(MISFIT, float(np.sqrt(np.mean(off**2))))
    laws = []
    for _ in range(draws):
        x, y = resample(curves, noise, rng)
        laws.append(fit_law(x, y, least, noise, CENTRES + rng.normal(0, SPREADS), numbers)[0])
    return laws


def join_points(curves: Sequence[Curve]) -> tuple[np.ndarray, np.ndarray]:
    """Costs and distances of all seeds."""
    return np.concatenate([curve.x for curve in curves]), np.concatenate([curve.y for curve in curves])


def resample(curves: Sequence[Curve], noise: float, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """The points of as many seeds as there are, drawn with replacement, each evaluation shifted for all of them.

    The bootstrap of n seeds is short of their variance by (n - 1) / n; their deviations are widened by that.
    """
    count, length = len(curves), min(len(curve.x) for curve in curves)
    picked = [curves[place] for place in rng.integers(0, count, count)]
    middle = np.mean([np.log(curve.y[:length]) for curve in curves], axis=0)
    widen = np.sqrt(count / (count - 1)) if count > 1 else 1.0
    shift = rng.normal(0, noise, max(len(curve.x) for curve in curves))
    logs = []
    for curve in picked:
        own = np.log(curve.y)
        own[:length] = middle + widen * (own[:length] - middle)
        logs.append(own + shift[: len(own)])
    return join_points(picked)[0], np.exp(np.concatenate(logs))


def find_drift(methods: Sequence[Sequence[Curve]], least: float) -> float:
    """What forecasts of these methods' own later evaluations miss by, in logarithms for a doubling of cost.

    From each method the last third of the evaluations is held back, as far as three stay. With nothing to hold back it
    is DRIFT; a few misses are weighed with that.
    """
    squares = [DRIFT**2] * DRIFT_COUNTS
    for curves in methods:
        length = min(len(curve.x) for curve in curves)
        kept = max(FEWEST, length - max(1, length // 3))
        early = [Curve(curve.x[:kept], curve.y[:kept]) for curve in curves]
        if kept >= length or not can_fit(early):
            continue
        law, _ = fit_law(*join_points(early), least, MISFIT)
        for place in range(kept, length):
            cost, value = (np.exp(np.mean([np.log(side[place]) for side in sides]))
                           for sides in ([c.x for c in curves], [c.y for c in curves]))  # fmt: skip
            ahead = np.log2(cost / np.mean([curve.end for curve in early]))
            squares.append(float(np.log(law.value(cost) / value)) ** 2 / ahead if ahead > 0 else 0.0)
    return float(np.sqrt(np.mean(squares)))
