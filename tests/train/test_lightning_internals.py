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
from diffx.train.lightning_internals import Handed, WholeEpoch, leave_signals_alone, plain, taken_checkpoint

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


def test_a_checkpoint_is_taken_and_writes_nothing_by_itself(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Lightning's own way leaves a copy in the temporary folder with every kill."""
    (tmp_path / "tmp").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "tmp"))
    monkeypatch.chdir(tmp_path)
    trainer = L.Trainer(max_steps=1, accelerator="cpu", plugins=[Handed(torch.device("cpu"))], **QUIET)
    trainer.fit(Line(), endless())
    taken = taken_checkpoint(trainer)
    assert taken["global_step"] == 1
    assert taken["optimizer_states"]
    assert [f for f in tmp_path.rglob("*") if f.is_file()] == []


def test_a_checkpoint_is_mapped_and_what_an_optimizer_keeps_of_it_is_not(tmp_path: Path) -> None:
    kept = {"exp_avg": torch.ones(3), "step": torch.tensor(1.0)}
    whole = {"state_dict": {"w": torch.ones(3)}, "optimizer_states": [{"state": {0: kept}, "param_groups": []}]}
    torch.save(whole, tmp_path / "a.ckpt")
    read = Handed(torch.device("cpu")).load_checkpoint(tmp_path / "a.ckpt")
    weights, ours = read["state_dict"]["w"], read["optimizer_states"][0]["state"][0]
    assert _file_of(weights) == str(tmp_path / "a.ckpt")
    assert _file_of(ours["exp_avg"]) != str(tmp_path / "a.ckpt")
    assert _file_of(ours["step"]) != str(tmp_path / "a.ckpt")


def _file_of(tensor: torch.Tensor) -> str:
    """The file that is mapped where its numbers are, "" for none."""
    for line in Path("/proc/self/maps").read_text().splitlines():
        begin, end = (int(side, 16) for side in line.split()[0].split("-"))
        if begin <= tensor.data_ptr() < end:
            return line.split(maxsplit=5)[5] if len(line.split()) > 5 else ""
    return ""


def test_private_names_stand_in_one_file() -> None:
    """Private attributes of a trainer and its loops, and modules of Lightning that begin with an underscore."""
    room = Path(lightning_internals.__file__).parent
    private = re.compile(r"\btrainer\.(\w+\.)*_\w|fit_loop|epoch_loop|LightningOptimizer|from lightning\S*\._")
    found = {file.name for file in room.glob("*.py") if private.search(file.read_text())}
    assert found == {"lightning_internals.py"}


def test_the_version_is_bounded() -> None:
    pyproject = (Path(__file__).parents[2] / "pyproject.toml").read_text()
    assert re.search(r'"lightning>=[\d.]+,<[\d.]+"', pyproject)
