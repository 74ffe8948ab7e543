"""Sampling to files: the same set on any number of devices and after a kill, and never the set of another protocol."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from diffx.commands.sample import main
from diffx.config.read import read_settings
from diffx.errors import DiffxError
from diffx.evaluation import sample_set
from diffx.evaluation.sample_set import SampleSet
from diffx.run.folder import RunDir
from tests import forks
from tests.evaluate.conftest import Refusal


def draw(run: RunDir, out: str, **settings: object) -> np.ndarray:
    own = read_settings(run.settings)
    chosen = replace(own, eval=replace(own.eval, **({"batch_size": 8} | settings)))
    with np.load(SampleSet(run.ema_weights, chosen, 30, Path(out)).draw()) as arrays:
        return arrays["arr_0"]


def test_an_npz_a_picture_and_the_facts_are_written_and_no_parts_left(run: RunDir) -> None:
    images = draw(run, "s.npz")
    assert (images.shape, images.dtype) == ((30, 16, 16, 1), np.uint8)
    assert {file.name for file in Path().iterdir()} == {"run", "s.npz", "s.png", "s.json"}
    assert json.loads(Path("s.json").read_text())["protocol"]["samples"] == 30


def test_a_set_that_was_cut_off_goes_on_and_is_the_same(run: RunDir, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = draw(run, "whole.npz")
    calls = []

    def killed(x: torch.Tensor, start: int) -> None:
        calls.append(start)
        if start == 16:
            raise KeyboardInterrupt

    monkeypatch.setattr(sample_set, "refuse_non_finite", killed)
    with pytest.raises(KeyboardInterrupt):
        draw(run, "cut.npz")
    assert not Path("cut.npz").exists()
    monkeypatch.setattr(sample_set, "refuse_non_finite", lambda x, start: calls.append(start))
    assert np.array_equal(draw(run, "cut.npz"), whole)
    assert calls == [0, 8, 16, 16, 24]


def test_a_set_that_is_whole_is_not_drawn_again(run: RunDir, monkeypatch: pytest.MonkeyPatch) -> None:
    draw(run, "s.npz")
    monkeypatch.setattr(SampleSet, "_draw_parts", lambda *_: pytest.fail("drawn again"))
    draw(run, "s.npz")


def test_another_seed_or_other_weights_are_another_set(run: RunDir) -> None:
    first = draw(run, "s.npz")
    other = draw(run, "s.npz", seed=1)
    assert not np.array_equal(first, other)
    weights = load_file(run.ema_weights)
    save_file({name: tensor + 0.1 for name, tensor in weights.items()}, run.ema_weights)
    assert not np.array_equal(draw(run, "s.npz", seed=1), other)


def test_truncated_levels_are_half_a_level_darker_and_another_set(run: RunDir) -> None:
    nearest, truncated = draw(run, "s.npz").astype(float), draw(run, "s.npz", rounding="truncate").astype(float)
    inner = (nearest > 0) & (nearest < 255)
    assert set(np.unique(nearest - truncated)) == {0, 1}
    assert (nearest - truncated)[inner].mean() == pytest.approx(0.5, abs=0.05)


def test_another_average_is_drawn_from_its_own_weights(run: RunDir) -> None:
    main(["run", "-n", "4", "--ema", "0.5", "-o", "half"])
    main(["run", "-n", "4", "-o", "usual"])
    assert not np.array_equal(np.load("half.npz")["arr_0"], np.load("usual.npz")["arr_0"])
    assert json.loads(Path("half.json").read_text())["protocol"]["ema_decay"] == 0.5


def test_samples_do_not_depend_on_the_batches_but_for_rounding(run: RunDir) -> None:
    one, other = draw(run, "one.npz"), draw(run, "other.npz", batch_size=30)
    assert np.abs(one.astype(int) - other.astype(int)).max() <= 1


@pytest.mark.slow
def test_two_processes_write_the_same_file_as_one(run: RunDir, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("subprocess.Popen", forks.Popen)
    arguments = ["run", "-n", "30", "eval.batch_size=8"]
    main([*arguments, "-o", "one"])
    main([*arguments, "-o", "two", "--devices", "2"])
    assert Path("one.npz").read_bytes() == Path("two.npz").read_bytes()


def test_weights_that_are_not_finite_are_said(run: RunDir) -> None:
    weights = load_file(run.ema_weights)
    save_file({name: tensor * torch.nan for name, tensor in weights.items()}, run.ema_weights)
    with pytest.raises(DiffxError, match="8 of the 8 samples from number 0 on hold NaN"):
        draw(run, "s.npz")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["nowhere"], "no run directory"),
        (["run", "-n", "0"], "--count 0"),
        (["run", "--label", "10"], "label 10"),
        (["run", "--protocol", "adm_5k"], "adm_50k"),
        (["run", "--protocol", "dit_cfg"], "type sampler="),
        (["run", "--ema", "0.9999"], "keeps the averages 0.99, 0.5"),
        (["run", "eval.rounding=up"], "eval.rounding=nearest or truncate"),
    ],
)
def test_bad_input_is_one_sentence(run: RunDir, arguments: list[str], words: str, refusal: Refusal) -> None:
    assert words in refusal(main, arguments)
