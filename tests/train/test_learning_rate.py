"""Learning-rate schedules: their shapes, that training follows them, and that a resume changes nothing."""

from pathlib import Path

import pytest
import torch

from diffx.config.compose import compose_config
from diffx.errors import DiffxError
from diffx.run.folder import RunDir
from diffx.schedule import LearningRate
from diffx.train.loop import train
from tests.run.conftest import small


def test_a_warm_up_rises_in_equal_parts_to_one() -> None:
    rate = LearningRate(warmup=4)
    assert [rate(step) for step in range(6)] == [0.25, 0.5, 0.75, 1, 1, 1]


def test_a_cosine_is_half_way_in_the_middle_and_stays_at_its_end() -> None:
    rate = LearningRate("cosine", warmup=10, steps=110, final=0.1)
    assert rate(10) == 1
    assert rate(60) == pytest.approx(0.55)
    assert rate(110) == rate(1000) == pytest.approx(0.1)


def test_wsd_is_constant_until_its_decay() -> None:
    rate = LearningRate("wsd", warmup=10, steps=100, decay=0.2)
    assert [rate(step) for step in (10, 50, 80)] == [1, 1, 1]
    assert rate(85) == pytest.approx(0.5)
    assert rate(100) == rate(200) == 0


def test_a_linear_one_is_half_way_in_the_middle_of_its_decay() -> None:
    rate = LearningRate("linear", steps=100, decay=0.5, final=0.1)
    assert rate(50) == 1
    assert rate(75) == pytest.approx(0.55)
    assert rate(100) == rate(200) == pytest.approx(0.1)


def last_rate(run: RunDir) -> float:
    state = torch.load(run.last_checkpoint, weights_only=True)
    return state["optimizer_states"][0]["param_groups"][0]["lr"]


def test_training_follows_it_and_a_resume_is_the_uninterrupted_run(tmp_path: Path) -> None:
    chosen = ["learning_rate=cosine", "learning_rate.steps=8", "learning_rate.warmup=2", "optimizer.lr=0.01"]
    whole = train(compose_config(small(*chosen, f"runs_dir={tmp_path / 'whole'}", "max_steps=6")))
    parts = f"runs_dir={tmp_path / 'parts'}"
    train(compose_config(small(*chosen, parts, "max_steps=3")))
    resumed = train(compose_config(small(*chosen, parts, "max_steps=6")))
    assert last_rate(whole) == pytest.approx(0.01 * LearningRate("cosine", warmup=2, steps=8)(5))
    states = [torch.load(run.last_checkpoint, weights_only=True)["state_dict"] for run in (whole, resumed)]
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])


def test_the_default_is_constant_and_changes_no_id_while_a_schedule_does() -> None:
    plain = compose_config([])
    assert plain.learning_rate.name == "constant"
    assert compose_config(["learning_rate=constant"]).id == plain.id
    ids = {compose_config([f"learning_rate={name}"]).id for name in ("constant", "cosine", "wsd", "linear")}
    assert len({*ids, compose_config(["learning_rate=cosine", "max_steps=2000"]).id}) == 5


def test_a_warm_up_longer_than_its_schedule_is_refused() -> None:
    with pytest.raises(DiffxError, match=r"learning_rate=cosine needs its length.*type learning_rate\.steps=2001"):
        compose_config(["learning_rate=cosine", "learning_rate.warmup=2000"])
