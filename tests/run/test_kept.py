"""What is written is whole, says what it is of, and is checked when it is read; what cannot be read is said."""

import errno
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from diffx.checkpoint.native import load_backbone
from diffx.commands import evaluate, sample
from diffx.config.compose import compose_config
from diffx.errors import DiffxError
from diffx.run.folder import RunDir
from diffx.store.sealed import read_sealed, write_sealed
from diffx.store.whole_file import write_text
from tests.run.conftest import small

Run = Callable[..., RunDir]


def flip(path: Path, bit: int) -> None:
    content = bytearray(path.read_bytes())
    content[bit // 8] ^= 1 << bit % 8
    path.write_bytes(content)


def test_every_flipped_bit_of_an_average_is_found(tmp_path: Path) -> None:
    """50 of 50 were sampled, evaluated and exported without a word."""
    write_sealed({"a": torch.arange(6.0), "b": torch.tensor(1)}, {"run": "x/s0", "step": "8"}, tmp_path / "w")
    whole = (tmp_path / "w").read_bytes()
    assert torch.equal(read_sealed(tmp_path / "w")["a"], torch.arange(6.0))
    for bit in range(0, 8 * len(whole), 7):
        (tmp_path / "w").write_bytes(whole)
        flip(tmp_path / "w", bit)
        with pytest.raises(DiffxError):
            read_sealed(tmp_path / "w")


def test_a_damaged_average_is_neither_sampled_nor_exported(run: Run) -> None:
    directory = run("max_steps=2")
    flip(directory.ema_weights, 8 * (directory.ema_weights.stat().st_size - 100))
    for act in (lambda: sample.main([str(directory.path), "-n", "4"]), lambda: export(directory)):
        with pytest.raises((SystemExit, DiffxError)) as refused:
            act()
        assert isinstance(refused.value, DiffxError) or refused.value.code == 2


def export(directory: RunDir) -> None:
    from diffx.checkpoint.folder import open_backbone

    open_backbone(directory.path)


def test_an_average_says_its_run_and_step(run: Run) -> None:
    directory = run("max_steps=2")
    with safe_open(directory.ema_weights, "pt") as file:
        facts = file.metadata()
    assert (facts["run"], facts["step"]) == (f"{directory.path.parent.name}/s0", "2")


def test_an_average_without_a_checksum_is_read_with_a_line(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    directory = run("max_steps=2")
    save_file(load_file(directory.ema_weights), directory.ema_weights)
    from diffx.assemble.model import build_model

    load_backbone(build_model(compose_config(small())).backbone, directory.ema_weights)
    assert "has no checksum" in capsys.readouterr().out


def test_an_average_of_another_seed_is_refused(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    one, other = run("max_steps=2"), run("max_steps=2", "seed=1")
    shutil.copy(other.ema_weights, one.ema_weights)
    with pytest.raises(SystemExit):
        sample.main([str(one.path), "-n", "4"])
    assert "/s1 and lies in the folder of" in capsys.readouterr().err


@pytest.mark.parametrize("changed", ["seed=1", "optimizer.lr=1e-3", "objective=cosine"])
def test_a_checkpoint_of_the_same_shape_and_another_run_is_not_taken_as_this_ones(run: Run, changed: str) -> None:
    one, other = run("max_steps=2"), run("max_steps=2", changed)
    shutil.copy(other.last_checkpoint, one.last_checkpoint)
    with pytest.raises(DiffxError, match="says that it is of run"):
        run("max_steps=4")
    run("max_steps=4", f"resume={other.last_checkpoint.absolute()}", "runs_dir=elsewhere")


@pytest.mark.parametrize("content", ["", "{", "[]", "null", "\udcff"])
def test_a_record_that_cannot_be_read_is_written_anew(
    content: str, run: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    """An empty run.json blocked a run for good."""
    directory = run("max_steps=2")
    (directory.path / "run.json").write_bytes(content.encode(errors="surrogateescape"))
    assert run("max_steps=4").read_record()["status"] == "complete"
    assert "run.json cannot be read" in capsys.readouterr().out.replace("\n", " ")


def test_an_evaluation_without_a_record_is_refused_before_it_samples(
    run: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    directory = run("max_steps=2")
    (directory.path / "run.json").write_text("")
    with pytest.raises(SystemExit):
        evaluate.main([str(directory.path)])
    assert "does not say what training cost" in capsys.readouterr().err
    assert not list(directory.path.glob("samples/evaluation*"))


@pytest.mark.parametrize("line", [b"12", b"null", b'{"values": {}}', b'{"step": "2"}', b"\xff\xfe"])
def test_a_line_of_the_curve_that_is_no_evaluation_is_said_and_left_out(
    line: bytes, run: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    directory = run("max_steps=2")
    directory.curve.write_bytes(line + b"\n" + directory.curve.read_bytes())
    run("max_steps=4")
    assert [json.loads(text)["step"] for text in directory.curve.read_text().splitlines()] == [2, 4]
    assert "line 1 is no evaluation" in capsys.readouterr().out.replace("\n", " ")


def test_content_is_on_disk_before_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    done: list[str] = []
    sync, replace = os.fsync, os.replace
    monkeypatch.setattr(os, "fsync", lambda *a: done.append("content") or sync(*a))
    monkeypatch.setattr(os, "replace", lambda *a: done.append("name") or replace(*a))
    write_text(tmp_path / "run.json", "{}")
    assert done == ["content", "name"]


@pytest.mark.parametrize(
    "writes", ["diffx.run.folder.write_text", "diffx.run.folder.os.fsync", "diffx.evaluation.evaluation.save_grid"]
)
def test_a_disk_that_goes_full_ends_in_a_sentence(writes: str, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    directory = run("max_steps=1")
    with monkeypatch.context() as patched:
        patched.setattr(writes, full)
        with pytest.raises(DiffxError, match=r"cannot be written .*No space left on device"):
            run("max_steps=2")
    assert run("max_steps=2").read_record()["status"] == "complete"
    assert directory.last_checkpoint.exists()
