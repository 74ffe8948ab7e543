"""A training on many GPUs, on paper: closed forms, limits, what is refused, and the command."""

import math
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from diffx.cluster.machine import Machine
from diffx.cluster.simulate import TAIL, checkpoint_seconds, simulate, sum_seconds
from diffx.cluster.work import Work, encoder_flops, work_of
from diffx.commands.scale import counts, print_scale
from diffx.config.compose import compose_config
from diffx.config.parse import typed
from diffx.errors import DiffxError

WORK = Work(
    name="made up",
    batch=1024,
    steps=1000,
    flops=1e12,
    parameters=10**9,
    held=20 * 10**9,
    blocks=20,
    sample_bytes=10_000,
    sharded=False,
    minutes=5,
    share=0.01,
)
QUIET = Machine(failures=0.0, saving=1e5)


def test_one_gpu_takes_its_arithmetic_and_the_pass_of_the_optimizer() -> None:
    step = simulate(WORK, QUIET, 1)
    assert step.arithmetic == pytest.approx(1024 * 1e12 / (989e12 * 0.43))
    assert step.tail == pytest.approx(TAIL * 1e9 / (0.9 * 3.35e12))
    assert (step.links, step.reading) == (0, 0)


@pytest.mark.parametrize(("devices", "bandwidth"), [(8, 450e9), (64, 400e9)])
def test_a_sum_over_gpus_is_a_ring_on_the_slowest_link_and_the_hops_of_a_tree(devices: int, bandwidth: float) -> None:
    wanted = 2 * (devices - 1) / devices * 4e9 / (0.8 * bandwidth) + 2 * math.log2(devices) * 10e-6
    assert sum_seconds(4e9, devices, QUIET) == pytest.approx(wanted)


def test_sums_that_the_backward_pass_hides_cost_their_last_block() -> None:
    hidden = simulate(WORK, QUIET, 8)
    assert hidden.links == pytest.approx(sum_seconds(4e9 / 20, 8, QUIET))


def test_sums_that_nothing_hides_cost_what_the_backward_pass_leaves() -> None:
    slow = replace(QUIET, nic=1.0)
    step = simulate(WORK, slow, 64)
    whole = 20 * sum_seconds(4e9 / 20, 64, slow)
    assert step.links == pytest.approx(whole - 2 / 3 * step.arithmetic)
    assert step.binds.startswith("links")


def test_sharding_divides_the_optimizers_pass_and_gathers_half_of_the_bytes() -> None:
    slow, sharded = replace(QUIET, nic=1.0, latency=0.0), replace(WORK, sharded=True)
    step, plain = simulate(sharded, slow, 64), simulate(WORK, slow, 64)
    assert step.tail == pytest.approx(plain.tail / 64)
    gathered_and_summed = step.links + step.arithmetic  # all of which hides some
    assert gathered_and_summed == pytest.approx((plain.links + 2 / 3 * plain.arithmetic) * (2 + 4) / (2 * 4))


def test_a_measured_step_is_what_one_gpu_takes() -> None:
    measured = replace(QUIET, step_ms=500.0, step_batch=64)
    assert simulate(replace(WORK, batch=64), measured, 1).seconds == pytest.approx(0.5)


def test_slow_storage_makes_a_step_as_long_as_its_reading() -> None:
    step = simulate(WORK, replace(QUIET, storage=1e-3), 8)
    assert step.seconds == pytest.approx(1024 * 10_000 / 1e6)
    assert step.binds.startswith("reading")


def test_checkpoints_are_so_far_apart_that_writing_takes_its_share() -> None:
    assert checkpoint_seconds(WORK, Machine(saving=2)) == pytest.approx(16e9 / 2e9 / 0.01)
    assert checkpoint_seconds(WORK, Machine(saving=1e5)) == 300


def test_failures_cost_a_restart_and_half_of_what_lies_between_checkpoints() -> None:
    step = simulate(WORK, replace(QUIET, failures=1.0, restart=10), 512)
    rate = 512 * 1e-3 / 86_400
    assert step.lost == pytest.approx(rate * (600 + 150) + 16e9 / 25e9 / 300)
    assert step.hours(3600 * step.images_per_second) == pytest.approx(1 / (1 - step.lost))


@settings(max_examples=60, deadline=None)
@given(st.sampled_from([2, 8, 64, 512]), st.floats(0.1, 1000), st.booleans())
def test_no_gpu_does_more_among_others_than_alone_but_for_a_sharded_optimizer(
    devices: int, nic: float, sharded: bool
) -> None:
    step = simulate(replace(WORK, sharded=sharded), replace(QUIET, nic=nic), devices)
    alone = step.arithmetic + (step.tail * devices if sharded else step.tail)
    assert 0 < step.efficiency <= alone / (step.arithmetic + step.tail)


def test_more_gpus_than_images_get_some_each_and_it_is_said(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    print_scale(["backbone=s", "data=imagenet256", "batch_size=16", "devices=64"], tmp_path / "scale.png")
    said = " ".join(capsys.readouterr().out.split())
    assert "batch_size=16 has less than one image for each of 64 GPUs" in said
    assert simulate(replace(WORK, batch=16), QUIET, 64).batch == 64 * 32


def test_the_command_prints_a_row_for_each_number_of_gpus_and_draws(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    out = tmp_path / "scale.png"
    print_scale(["+experiment=repa_xl", "devices=100", "images=1000000000"], out)
    said = capsys.readouterr().out
    rows = [line.split()[0] for line in said.splitlines() if line.strip()[:1].isdigit() and "%" in line]
    assert rows == ["1", "8", "16", "32", "64", "100"]
    assert "PREDICTED, not measured" in said
    assert max(map(len, said.split("Efficiency and")[0].splitlines())) <= 80
    assert out.read_bytes().startswith(b"\x89PNG")


def test_repa_xls_work_is_what_its_experiment_says() -> None:
    work = work_of(compose_config(["+experiment=repa_xl"]))
    assert work.flops == pytest.approx(0.77e12, rel=0.01)
    assert encoder_flops("dinov2_vitb14", 16) == pytest.approx(0.046e12, rel=0.02)
    assert work.sample_bytes == 4 * 32 * 32 * 4 + 3 * 256 * 256


def test_counts_end_with_what_was_asked_for() -> None:
    assert counts(Machine(devices=1)) == [1]
    assert counts(Machine(devices=4)) == [1, 4]
    assert counts(Machine(devices=24)) == [1, 8, 16, 24]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["devices=0"], "devices=0 must be int, at least 1"),
        (["gpu=h1000"], "gpu=h1000 is not known; type gpu=a100, h100, h200 or b200"),
        (["nic=fast"], "nic=fast must be"),
    ],
)
def test_a_machine_that_cannot_be_is_refused_with_the_value(words: list[str], said: str) -> None:
    with pytest.raises(DiffxError, match=said):
        typed(Machine, words)


@pytest.mark.parametrize(
    ("work", "machine", "said"),
    [
        (replace(WORK, held=20 * 10**10), QUIET, "type trainer.strategy=fsdp"),
        (replace(WORK, held=20 * 10**12, sharded=True), QUIET, "type more devices="),
        (WORK, replace(QUIET, failures=1e5), "it never ends"),
        (WORK, replace(QUIET, step_ms=100.0), "type step_batch=64"),
        (WORK, replace(QUIET, step_ms=1.0, step_batch=1), "less than the optimizer's pass"),
    ],
)
def test_what_cannot_train_is_refused(work: Work, machine: Machine, said: str) -> None:
    with pytest.raises(DiffxError, match=said):
        simulate(work, machine, 64)
