"""Averages of any length after training, from two that were kept (EDM2)."""

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from diffx.checkpoint.post_hoc import (
    LENGTHS,
    Snapshot,
    choose_average,
    combine,
    decay_at,
    exponent,
    overlap,
    write_average,
    write_snapshot,
)
from diffx.commands.evaluate import main as evaluate
from diffx.config.compose import compose_config
from diffx.config.read import read_settings
from diffx.config.target import Node
from diffx.errors import DiffxError
from diffx.run.folder import RunDir
from diffx.store.sealed import write_sealed
from diffx.train.loop import train
from tests.run.conftest import small


@pytest.mark.parametrize(("length", "gamma"), [(0.05, 16.97), (0.1, 6.94)])
def test_the_two_lengths_have_the_exponents_of_the_paper(length: float, gamma: float) -> None:
    assert exponent(length) == pytest.approx(gamma, abs=0.005)


def test_a_length_is_the_standard_deviation_of_the_profile_over_training() -> None:
    tau = np.linspace(0, 1, 200_001)
    gamma = exponent(0.1)
    profile = (gamma + 1) * tau**gamma
    mean = np.trapezoid(profile * tau, tau)
    assert np.sqrt(np.trapezoid(profile * (tau - mean) ** 2, tau)) == pytest.approx(0.1, rel=1e-4)


def test_overlaps_are_the_integrals_of_the_profiles() -> None:
    a, b = Snapshot(400, 0.05), Snapshot(1000, 0.1)
    tau = np.linspace(0, 400, 400_001)
    profiles = [(exponent(s.length) + 1) * (tau / s.step) ** exponent(s.length) / s.step for s in (a, b)]
    assert overlap(a, b) == overlap(b, a) == pytest.approx(np.trapezoid(profiles[0] * profiles[1], tau), rel=1e-5)


def averages_of(path: np.ndarray, length: float) -> np.ndarray:
    """After every step, as training keeps it."""
    found, now = [], 0.0
    for step, value in enumerate(path, start=1):
        decay = decay_at(length, step)
        now = decay * now + (1 - decay) * value
        found.append(now)
    return np.array(found)


@pytest.mark.parametrize("length", [0.03, 0.075, 0.15])
def test_a_length_that_was_not_kept_is_what_it_would_have_been(length: float) -> None:
    """On a random walk of 4,000 steps, as weights go: the error against the average itself, over how far that is from
    the nearer one that was kept. EDM2 gives less than a percent for lengths between."""
    path = np.cumsum(np.random.default_rng(0).standard_normal(4000))
    kept = {one: averages_of(path, one) for one in LENGTHS}
    snapshots = [Snapshot(step, one) for step in range(125, 4001, 125) for one in LENGTHS]
    factors = combine(snapshots, Snapshot(4000, length))
    made = sum(factor * kept[one.length][one.step - 1] for factor, one in zip(factors, snapshots, strict=True))
    true = averages_of(path, length)[-1]
    assert sum(factors) == pytest.approx(1, abs=0.01)
    assert abs(made - true) < 0.1 * min(abs(kept[one][-1] - true) for one in LENGTHS)


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> RunDir:
    folder = tmp_path_factory.mktemp("runs")
    return train(compose_config(small("snapshot_steps=2", "max_steps=6", f"runs_dir={folder}")))


def test_training_keeps_snapshots_of_both_lengths_and_a_kept_length_is_given_back(kept: RunDir) -> None:
    files = sorted(file.name for file in kept.snapshots.iterdir())
    assert files == [f"step_{step:08d}_{length:g}.safetensors" for step in (2, 4, 6) for length in LENGTHS]
    own = load_file(kept.snapshots / "step_00000006_0.1.safetensors")
    made = load_file(write_average(kept, 0.1))
    assert all(torch.allclose(made[name], own[name], atol=1e-5) for name in own)
    assert any(not torch.equal(own[name], load_file(kept.ema_weights)[name]) for name in own)


def test_tables_that_nobody_trains_are_the_networks_own_in_every_average(kept: RunDir, tmp_path: Path) -> None:
    assert torch.equal(load_file(write_average(kept, 0.07))["pos_embed"], load_file(kept.ema_weights)["pos_embed"])
    run, index = RunDir(tmp_path), torch.arange(50)
    for step in (2, 4, 6):
        for length in LENGTHS:
            write_snapshot(run, step, length, {"index": index, "trained": torch.full((2,), float(step))}, "made")
    made = load_file(write_average(run, 0.07))
    assert torch.equal(made["index"], index)
    assert 4 < made["trained"][0] < 7


def test_a_damaged_snapshot_is_one_sentence(kept: RunDir, tmp_path: Path) -> None:
    shutil.copytree(kept.path, tmp_path / "run")
    file = tmp_path / "run/checkpoints/snapshots/step_00000004_0.1.safetensors"
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)
    with pytest.raises(DiffxError, match=r"step_00000004_0\.1\.safetensors is damaged"):
        write_average(RunDir(tmp_path / "run"), 0.06)


def test_a_run_is_measured_with_an_average_of_another_length_under_a_protocol_of_its_own(
    kept: RunDir, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(kept.path, tmp_path / "run")
    evaluate([str(tmp_path / "run"), "--ema-length", "0.07", "eval.samples=20", "--devices", "1"])
    assert "fd_embedded_sup_20" in capsys.readouterr().out
    line = (tmp_path / "run/curve_evaluation_ema_length_0.07.jsonl").read_text()
    assert '"ema_length": 0.07' in line


def test_an_average_is_not_decoded_by_an_autoencoder_of_another_step(kept: RunDir, tmp_path: Path) -> None:
    shutil.copytree(kept.path, tmp_path / "run")
    run = RunDir(tmp_path / "run")
    settings = replace(read_settings(run.settings), end_to_end=Node("diffx_plugins.repa_e.REPAE", {}))
    write_sealed({"weight": torch.zeros(1)}, {"step": "5"}, run.autoencoder_weights)
    with pytest.raises(DiffxError, match=r"of step 6 and the autoencoder .* of step 5, which would decode"):
        choose_average(settings, run, None, 0.07)
    write_sealed({"weight": torch.zeros(1)}, {"step": "6"}, run.autoencoder_weights)
    assert choose_average(settings, run, None, 0.07)[0].ema_length == 0.07


def test_a_run_without_snapshots_and_a_length_that_is_none_are_refused(kept: RunDir, tmp_path: Path) -> None:
    with pytest.raises(DiffxError, match=r"keeps no snapshots; train it with snapshot_steps=1000"):
        write_average(RunDir(tmp_path), 0.1)
    with pytest.raises(DiffxError, match=r"--ema-length 0.9 is no share of training"):
        write_average(kept, 0.9)
