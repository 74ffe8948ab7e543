"""The scaling law: planted exponents, the interval, who is fitted, and what is written."""

from pathlib import Path

import numpy as np
import pytest
from made_runs import line, write_run

from diffx.compare.__main__ import main
from diffx.compare.ahead.scaling import Network, fit_scaling
from diffx.compare.shown.scaling import scale_study, tabulate_scaling, write_scaling
from diffx.compare.study import make_study
from diffx.errors import DiffxError

METRIC = "fd_embedded_sup_1k"


def networks(exponent: float, scatter: float, seed: int) -> list[Network]:
    rng = np.random.default_rng(seed)
    flops = np.geomspace(1e12, 1e14, 9)
    values = 1e6 * flops**-exponent * np.exp(rng.normal(0, scatter, (3, 9)) * 0.3 + rng.normal(0, scatter, 9))
    return [Network(f"n{k}", "patch 2", float(flops[k]), tuple(values[:, k])) for k in range(9)]


def write_network(root: Path, width: int, patch: int, flops: float, seed: int = 0) -> None:
    """One run that ends after 8 hours on 40 · (flops / 1e12)^-0.5."""
    sizes = {"backbone": {"hidden_size": width, "patch_size": patch}}
    folder = write_run(root, "plain", seed, config=sizes, identity=f"{width}_{patch}")
    points = [line(step, step, {METRIC: 40 * (flops * step / 8 / 1e12) ** -0.5}) for step in (4, 8)]
    spent = [text.replace(f'"train_flops": {1e9 * step}', f'"train_flops": {flops * step / 8}')
             for text, step in zip(points, (4, 8), strict=True)]  # fmt: skip
    (folder / "curve.jsonl").write_text("".join(spent))


def test_a_law_without_scatter_is_found_exactly():
    law = fit_scaling(METRIC, networks(0.6, 0.0, 0), draws=50)
    assert law.exponent == pytest.approx(0.6)
    assert law.scale == pytest.approx(1e6)
    assert law.interval == pytest.approx((0.6, 0.6))


def test_the_interval_of_the_exponent_holds_the_planted_one_about_as_often_as_it_says():
    held = 0
    for seed in range(60):
        low, high = fit_scaling(METRIC, networks(0.6, 0.2, seed), draws=300).interval
        held += low <= 0.6 <= high
    assert 47 <= held <= 60


def test_the_last_evaluation_of_every_network_is_fitted_against_its_training_flops(tmp_path: Path) -> None:
    for width, patch, flops in ((32, 4, 1e12), (64, 4, 4e12), (32, 2, 5e12), (64, 2, 2e13)):
        write_network(tmp_path, width, patch, flops)
    (law,) = scale_study(make_study([tmp_path])).scalings
    assert law.exponent == pytest.approx(0.5)
    assert {one.group for one in law.networks} == {"patch 4", "patch 2"}
    assert max(one.flops for one in law.networks) == 2e13
    assert [row[3] for row in tabulate_scaling(law).rows] == ["40", "20", "17.9", "8.94"]
    assert "3.16 times lower for ten times the FLOPs" in write_scaling(law)


def test_scaling_writes_its_picture_and_its_table(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for width, flops in ((32, 1e12), (64, 4e12), (96, 8e12), (128, 2e13)):
        write_network(tmp_path, width, 2, flops)
    assert main([str(tmp_path), "--scaling", "-o", str(tmp_path / "report")]) == 0
    assert (tmp_path / "report/scaling.png").stat().st_size > 10_000
    page = (tmp_path / "report/compare.md").read_text()
    assert "![the scaling law](scaling.png)" in page
    assert "### Scaling: " in page
    assert "training FLOPs)^−0.50" in capsys.readouterr().out


def test_fewer_networks_than_four_are_refused(tmp_path: Path) -> None:
    write_network(tmp_path, 32, 2, 1e12)
    write_network(tmp_path, 64, 2, 2e12)
    with pytest.raises(DiffxError, match="at least 4 training costs, and these runs have 2"):
        scale_study(make_study([tmp_path]))
