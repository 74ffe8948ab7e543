"""Print how closely diffx agrees with each recording: python tests/golden/measure.py [pytest arguments].

Runs the tests of this folder and shows, for each, the largest difference it met relative to the recording's largest
magnitude, beside the tolerance.
"""

import sys
from pathlib import Path

import pytest
import recordings
from torch import Tensor

check = recordings.assert_agrees
met: dict[str, tuple[float, float]] = {}
current = [""]


def measured(actual: Tensor, recorded: Tensor, tolerance: float = 1e-5) -> None:
    difference = ((actual - recorded).abs().max() / recorded.abs().max()).item()
    met[current[0]] = max(met.get(current[0], (0.0, tolerance)), (difference, tolerance))
    check(actual, recorded, tolerance)


class Names:
    """Knows which test runs."""

    def pytest_runtest_setup(self, item: pytest.Item) -> None:
        current[0] = item.nodeid.split("/")[-1]


if __name__ == "__main__":
    recordings.assert_agrees = measured
    status = pytest.main([str(Path(__file__).parent), "-q", *sys.argv[1:]], plugins=[Names()])
    for name, (difference, tolerance) in met.items():
        print(f"{difference:.1e} of {tolerance:.0e}  {name}")
    sys.exit(status)
