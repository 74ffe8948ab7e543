"""What diffx relies on in Lightning beyond its public interface. A version in which one of these fails is not supported
until train/lightning_internals.py has been changed."""

import inspect
import re
import tempfile
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
from lightning.pytorch.core.optimizer import LightningOptimizer
from lightning.pytorch.loops.training_epoch_loop import _TrainingEpochLoop

from diffx.train import lightning_internals
from diffx.train.lightning_internals import WholeEpoch, WrittenInPlace, leave_signals_alone, plain

QUIET: dict[str, Any] = dict.fromkeys(
    ("logger", "enable_progress_bar", "enable_checkpointing", "enable_model_summary"), False
)


def test_the_methods_that_are_replaced_are_there_and_called() -> None:
    trainer = L.Trainer(accelerator="cpu", **QUIET)
    assert callable(trainer._signal_connector.register_signal_handlers)
    assert "_broadcast_sigterm_tensor()" in inspect.getsource(_TrainingEpochLoop.advance)
    assert "_signal_connector.register_signal_handlers()" in inspect.getsource(type(trainer)._run)


def test_signals_stay_with_diffx() -> None:
    import signal

    trainer = L.Trainer(accelerator="cpu", **QUIET)
    before = signal.getsignal(signal.SIGTERM)
    leave_signals_alone(trainer)
    trainer._signal_connector.register_signal_handlers()
    assert signal.getsignal(signal.SIGTERM) is before


def test_a_wrapped_optimizer_is_unwrapped() -> None:
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1)
    assert plain(LightningOptimizer(optimizer)) is optimizer
    assert plain(optimizer) is optimizer


class Line(L.LightningModule):
    """The smallest thing to train."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.ones(1))

    def training_step(self, batch: torch.Tensor, batch_idx: int) -> torch.Tensor:
        return (self.weight * batch).sum()

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=1e-3)


def endless() -> Any:
    while True:
        yield torch.ones(1)


def test_a_checkpoints_counts_of_micro_batches_follow_the_accumulation(tmp_path: Path) -> None:
    options = {"max_epochs": -1, "accelerator": "cpu", **QUIET}
    first = L.Trainer(max_steps=3, accumulate_grad_batches=4, callbacks=[WholeEpoch()], **options)
    first.fit(Line(), endless())
    first.save_checkpoint(tmp_path / "a.ckpt")
    second = L.Trainer(max_steps=5, accumulate_grad_batches=2, callbacks=[WholeEpoch()], **options)
    second.fit(Line(), endless(), ckpt_path=tmp_path / "a.ckpt")
    assert second.global_step == 5
    assert second.fit_loop.epoch_loop.batch_progress.total.completed == 10


def test_a_checkpoint_is_written_where_it_belongs_and_nowhere_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Lightning's own way leaves a copy in the temporary folder with every kill; this one has none, even while it
    writes."""
    (tmp_path / "tmp").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "tmp"))
    seen: list[list[str]] = []
    save = torch.save

    def watched(value: Any, target: Any) -> None:
        save(value, target)
        seen.append(sorted(str(f.relative_to(tmp_path)) for f in tmp_path.rglob("*") if f.is_file()))

    monkeypatch.setattr(torch, "save", watched)
    trainer = L.Trainer(max_steps=1, accelerator="cpu", plugins=[WrittenInPlace()], **QUIET)
    trainer.fit(Line(), endless())
    trainer.save_checkpoint(tmp_path / "a.ckpt")
    assert seen == [["a.ckpt"]]
    assert not list((tmp_path / "tmp").iterdir())


def test_private_names_stand_in_one_file() -> None:
    """Private attributes of a trainer and its loops, and modules of Lightning that begin with an underscore."""
    room = Path(lightning_internals.__file__).parent
    private = re.compile(r"\btrainer\.(\w+\.)*_\w|fit_loop|epoch_loop|LightningOptimizer|from lightning\S*\._")
    found = {file.name for file in room.glob("*.py") if private.search(file.read_text())}
    assert found == {"lightning_internals.py"}


def test_the_version_is_bounded() -> None:
    pyproject = (Path(__file__).parents[2] / "pyproject.toml").read_text()
    assert re.search(r'"lightning>=[\d.]+,<[\d.]+"', pyproject)
