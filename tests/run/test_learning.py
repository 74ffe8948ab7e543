"""A short training of each method lowers its losses and the distance of its samples; the learning is real, if brief."""

import itertools
import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest
from torch import Tensor

from diffx.config.compose import compose_config
from diffx.train.guard import Guard
from diffx.train.loop import train

SHORT = [
    *("backbone.patch_size=4", "backbone.hidden_size=64", "backbone.num_heads=2", "optimizer.lr=2e-3"),
    *("max_steps=130", "ema_decay=0.97", "eval.first=25", "eval.samples=200", "sampler.nfe=8", "log_every=10"),
    *("batch_size=16", "eval.per_doubling=0.2"),  # one evaluation at the start, one at the end
]


@pytest.fixture
def losses(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, float]]:
    """The losses of every tenth step, in order, as they reach the guard."""
    seen: list[dict[str, float]] = []
    see, steps = Guard.see, itertools.count(1)

    def watch(guard: Guard, names: Sequence[str], norms: Tensor, terms: Mapping[str, Tensor]) -> Tensor:
        if next(steps) % 10 == 0:
            seen.append({name: value.item() for name, value in terms.items()})
        return see(guard, names, norms, terms)

    monkeypatch.setattr(Guard, "see", watch)
    return seen


@pytest.mark.parametrize(
    ("plugins", "terms"),
    [
        ("[]", ["denoise"]),
        ("[repa]", ["denoise", "repa"]),
        ("[mdt]", ["denoise", "masked/denoise"]),
        ("[tread]", ["denoise"]),
        ("[repa,tread]", ["denoise", "repa"]),
    ],
)
def test_training_lowers_every_loss_and_the_distance(
    plugins: str,
    terms: list[str],
    losses: list[dict[str, float]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    run = train(compose_config([f"plugins={plugins}", "logger=none", *SHORT]))
    early, late = losses[1:4], losses[-3:]
    for term in terms:
        assert sum(x[term] for x in late) < sum(x[term] for x in early), term
    points = [json.loads(line)["values"] for line in run.curve.read_text().splitlines()]
    for name in ("fd_embedded_sup_200", "fd_embedded_ssl_200"):
        # 0.46 to 0.51 (self-supervised) and 0.41 to 0.43 (supervised).
        assert points[-1][name] < 0.95 * points[0][name], name


def test_a_loss_that_is_not_finite_stops_the_run_and_names_the_term(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from diffx.errors import DiffxError

    monkeypatch.chdir(tmp_path)
    with pytest.raises(DiffxError, match=r"up to step 20 were skipped: the loss denoise is not finite"):
        train(compose_config(["logger=none", *SHORT, "optimizer.lr=1e30", "trainer.gradient_clip_val=null"]))
    (record,) = tmp_path.glob("runs/digits/*/s0/run.json")
    assert json.loads(record.read_text())["status"] == "diverged"


def test_the_budget_ends_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    run = train(compose_config(["logger=none", *SHORT, "max_steps=100000", "budget={cpu_hours: 0.0005}"]))
    last = json.loads(run.curve.read_text().splitlines()[-1])
    assert 0.0005 <= last["cpu_hours"] < 0.001
    assert json.loads((run.path / "run.json").read_text())["status"] == "complete"
