"""Bad input ends in one sentence with the value and what to type instead, exit code 2, and no file."""

import os
from pathlib import Path

import pytest

from diffx.commands import train as cli
from tests.run.conftest import small

CASES = {
    "unknown plugin": (["plugins=[rpea]"], ["rpea", "repa", "tread"]),
    "unknown experiment": (["+experiment=repa_xxl"], ["repa_xxl", "repa_xl"]),
    "experiment without plus": (["experiment=repa_xl"], ["+experiment="]),
    "misspelt top-level key": (["batchsize=3"], ["batchsize", "batch_size"]),
    "misspelt appended key": (["+batchsize=3"], ["batchsize", "batch_size"]),
    "misspelt key of a plugin": (["plugins=[repa]", "plugins.repa.weigth=1"], ["weigth", "plugins.repa.weight"]),
    "misspelt appended key of a plugin": (
        ["plugins=[repa]", "+plugins.repa.wieght=1"],
        ["wieght", "plugins.repa.weight"],
    ),
    "setting of a plugin that is off": (["plugins.mdt.mask_ratio=0.5"], ["plugins.mdt.mask_ratio"]),
    "unknown data": (["data=digts"], ["digts", "digits"]),
    "span outside the backbone": (["plugins=[tread]", "plugins.tread.end=6"], ["tread", "6", "0 to 5"]),
    "span that ends before it starts": (["plugins=[tread]", "plugins.tread.start=4", "plugins.tread.end=2"], ["tread"]),
    "mask ratio zero": (["plugins=[mdt]", "plugins.mdt.mask_ratio=0"], ["mask_ratio=0", "0.3"]),
    "mask ratio one": (["plugins=[mdt]", "plugins.mdt.mask_ratio=1"], ["mask_ratio=1", "0.3"]),
    "selection ratio one": (["plugins=[tread]", "plugins.tread.selection_ratio=1"], ["selection_ratio=1", "0.5"]),
    "depth zero": (["plugins=[repa]", "plugins.repa.depth=0"], ["depth=0", "1 to 6"]),
    "depth beyond the last block": (["plugins=[repa]", "plugins.repa.depth=7"], ["depth=7", "1 to 6"]),
    "width that the heads do not divide": (["backbone.num_heads=5"], ["num_heads=5", "hidden_size=128"]),
    "patch that does not divide the image": (["backbone.patch_size=3"], ["patch_size=3", "16x16", "[1, 2, 4"]),
    "encoder grid that cannot match": (["plugins=[repa]", "backbone.patch_size=1"], ["8x8", "16x16", "patch_size"]),
    "negative weight": (["plugins=[repa]", "plugins.repa.weight=-1"], ["weight=-1", ">= 0"]),
    "infinite weight": (["plugins=[repa]", "plugins.repa.weight=inf"], ["weight=inf"]),
    "weight that is no number": (["plugins=[repa]", "plugins.repa.weight=nan"], ["weight=nan"]),
    "mdt without a decoder": (["plugins=[mdt]", "backbone.decoder_layers=0"], ["decoder_layers=0", "from 1 to"]),
    "weight that is a word": (["plugins=[repa]", "plugins.repa.weight=high"], ["weight=high"]),
    "depth that is a word": (["plugins=[repa]", "plugins.repa.depth=deep"], ["depth=deep", "int or null"]),
    "negative learning rate": (["optimizer.lr=-1"], ["lr", "-1"]),
    "negative seed": (["seed=-1"], ["seed=-1"]),
    "too few samples": (["eval.samples=1"], ["eval.samples=1"]),
    "sampler of another objective": (["sampler=ancestral"], ["Ancestral", "sampler="]),
    "first evaluation at zero": (["eval.first=0"], ["eval.first=0"]),
    "evaluations at a word": (["eval.first=abc"], ["eval.first=abc", "int or float"]),
    "unknown labels": (["eval.labels=foo"], ["eval.labels=foo", "balanced"]),
    "unknown precision": (["trainer.precision=bf17"], ["bf17", "bf16-mixed"]),
    "label dropout that is a word": (["label_dropout=abc"], ["label_dropout=abc"]),
    "budget without a unit": (["budget=5"], ["budget=5", "cpu_hours"]),
    "negative workers": (["data.workers=-1"], ["data.workers=-1"]),
    "width zero": (["backbone.hidden_size=0"], ["hidden_size=0"]),
    "misspelt appended key of a group": (["+eval.sampels=3"], ["eval.sampels", "eval.samples"]),
    "a sweep whose jobs are one run": (["-m", "max_steps=10,20"], ["one run", "max_steps"]),
    "batch of nothing": (["batch_size=0"], ["batch_size=0"]),
    "budget in the wrong unit": (["budget={gpu_hours: 1}", "trainer.accelerator=cpu"], ["gpu_hours", "cpu_hours"]),
    "unknown budget": (["budget={hours: 1}"], ["budget.hours", "budget.cpu_hours"]),
    "even forwards for Heun": (["sampler=heun", "sampler.nfe=10"], ["nfe=10", "11"]),
    "unknown compile mode": (["compile=all"], ["compile=all", "blocks"]),
    "no such checkpoint": (["resume=nowhere.ckpt"], ["nowhere.ckpt"]),
    "no setting at all": (["-x"], ["-x", "KEY=VALUE"]),
    "plugins that are nothing": (["plugins=null"], ["plugins=[]"]),
    "mask ratio that is a word": (["plugins=[mdt]", "plugins.mdt.mask_ratio=abc"], ["mask_ratio=abc", "0.3"]),
    "mask ratio of one end": (["plugins=[mdt]", "plugins.mdt.mask_ratio=[0.3]"], ["mask_ratio=[0.3]", "[0.3,0.5]"]),
    "weight that is a truth value": (["plugins=[repa]", "plugins.repa.weight=true"], ["weight=True"]),
    "plugin called as a term": (["+plugins.denoise._target_=diffx_plugins.tread.TREAD"], ["denoise", "term"]),
    "half precision on a CPU": (["trainer.precision=16-mixed", "optimizer.fused=false"], ["16-mixed", "bf16-mixed"]),
    "half precision with a fused optimizer": (["trainer.precision=16-mixed"], ["optimizer.fused=false"]),
    "unknown strategy": (["trainer.strategy=zero"], ["zero", "fsdp"]),
    "no micro-batch": (["trainer.accumulate=0"], ["trainer.accumulate=0"]),
    "averages that are no list": (["more_ema_decays=0.9"], ["more_ema_decays=0.9", "[0.999]"]),
    "an average twice": (["more_ema_decays=[0.99]"], ["twice"]),
    "sharding one graph": (["trainer.strategy=fsdp", "compile=step"], ["compile=blocks"]),
    "unprepared ImageNet": (["data=imagenet256"], ["python -m diffx.prepare"]),
    "object storage": (["runs_dir=s3://bucket/runs"], ["s3://bucket/runs", "runs_dir=runs", "rclone mount"]),
    "end_to_end that is none": (["end_to_end.perceptual=0"], ["end_to_end.perceptual", "end_to_end=repa_e"]),
    "end_to_end that was taken away": (
        ["+experiment=repa_e_shapes", "end_to_end=none", "end_to_end.perceptual=1"],
        ["end_to_end.perceptual", "end_to_end=repa_e"],
    ),
    "a sweep with one bad value": (["-m", "plugins=[tread]", "plugins.tread.selection_ratio=0.5,1.5"], ["1.5"]),
}


@pytest.mark.parametrize("case", CASES)
def test_one_sentence_exit_code_2_and_nothing_written(
    case: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    overrides, expected = CASES[case]
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.argv", ["diffx", *overrides])
    with pytest.raises(SystemExit) as stopped:
        cli.main()
    message = capsys.readouterr().err
    assert stopped.value.code == 2
    assert message.count("\n") == 1, message
    for word in expected:
        assert word in message
    assert not list(tmp_path.iterdir())


def test_a_crossing_pair_is_refused_with_both_names(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Two routes under names of one's own, which any number of plugins may have."""
    second = "+plugins.late={_target_: diffx_plugins.tread.TREAD, start: 3, end: 5}"
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.argv", ["diffx", "plugins=[tread]", second])
    with pytest.raises(SystemExit):
        cli.main()
    message = capsys.readouterr().err
    assert "plugins.tread and plugins.late cross" in message
    assert not list(tmp_path.iterdir())


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere; test_a_runs_dir_that_is_a_file stands in")
def test_a_read_only_runs_dir_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tmp_path.chmod(0o500)
    monkeypatch.setattr("sys.argv", ["diffx", *small(f"runs_dir={tmp_path}/runs")])
    with pytest.raises(SystemExit) as stopped:
        cli.main()
    assert stopped.value.code == 2


def test_a_runs_dir_that_is_a_file_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "taken").write_text("precious")
    monkeypatch.setattr("sys.argv", ["diffx", *small(f"runs_dir={tmp_path}/taken")])
    with pytest.raises(SystemExit) as stopped:
        cli.main()
    assert stopped.value.code == 2
    assert "runs_dir=" in capsys.readouterr().err
    assert (tmp_path / "taken").read_text() == "precious"
