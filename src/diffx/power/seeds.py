"""How many seeds tell a difference, by the t test of the logarithms of a distance.

A method that is x % lower than the baseline is log(1 / (1 - x / 100)) lower in logarithms, and seeds of one method lie
about their mean with a standard deviation `spread` there, which for small spreads is the relative one. Unpaired, both
sides have n seeds of their own (2n - 2 degrees of freedom); paired, the n differences of runs that share a seed have
the standard deviation spread · sqrt(2 - 2 · correlation) (n - 1 degrees).
"""

import math

import numpy as np
from scipy.special import chdtri, ndtr, stdtrit

# The non-central t distribution as a mean over equally likely variances: scipy's nct loses its digits at one or two
# degrees of freedom.
SHARES = (np.arange(4000) + 0.5) / 4000
MOST = 2000  # seeds, beyond which a difference is not worth telling this way


def tell(seeds: int, spread: float, gap: float, error: float, correlation: float | None = None) -> float:
    """The chance that n seeds a side tell a gap in logarithms at a two-sided error; paired where the correlation of
    runs of one seed is given."""
    if seeds < 2:
        return 0.0
    if spread <= 0:
        return 1.0
    freedom = seeds - 1 if correlation is not None else 2 * seeds - 2
    scale = spread * math.sqrt((2 if correlation is None else 2 - 2 * min(correlation, 0.999)) / seeds)
    limits = float(stdtrit(freedom, 1 - error / 2)) * np.sqrt(chdtri(freedom, SHARES) / freedom)
    return float(np.mean(ndtr(gap / scale - limits) + ndtr(-gap / scale - limits)))


def count_seeds(spread: float, gap: float, error: float, power: float, correlation: float | None = None) -> int | None:
    """The least seeds a side that tell the gap with the wanted chance; None when MOST do not."""
    low, high = 2, MOST
    if tell(high, spread, gap, error, correlation) < power:
        return None
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if tell(middle, spread, gap, error, correlation) >= power else (middle + 1, high)
    return low


def as_gap(percent: float) -> float:
    """A value that is so many percent lower, in logarithms."""
    return -math.log1p(-percent / 100)
