"""Measuring a run, an .npz and a folder."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from diffx.commands.evaluate import main
from diffx.metrics.embedded import EmbeddedMetrics
from diffx.run.folder import RunDir


def lines(file: Path) -> list[dict]:
    return [json.loads(line) for line in file.read_text().splitlines()]


def made_metrics(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """The arguments of every EmbeddedMetrics that is made from now on."""
    made = []
    start = EmbeddedMetrics.__init__

    def noted(self: EmbeddedMetrics, **arguments: Any) -> None:
        made.append(arguments)
        start(self, **arguments)

    monkeypatch.setattr(EmbeddedMetrics, "__init__", noted)
    return made


def test_the_runs_own_protocol_gives_the_values_of_training_and_a_line_on_its_curve(run: RunDir) -> None:
    main([str(run.path)])
    trained, evaluated = lines(run.curve)
    assert evaluated["values"] == pytest.approx(trained["values"], rel=1e-3)
    for key in ("step", "images", "train_flops", "protocol", "ema_decay"):
        assert evaluated[key] == trained[key]
    assert evaluated["cpu_hours"] == pytest.approx(trained["cpu_hours"], rel=0.5)


def test_another_protocol_has_a_curve_of_its_own(run: RunDir) -> None:
    before = run.curve.read_text()
    main([str(run.path), "--protocol", "embedded", "eval.samples=50", "sampler.nfe=3"])
    (line,) = lines(run.path / "curve_embedded.jsonl")
    assert run.curve.read_text() == before
    assert set(line["values"]) == {"fd_embedded_sup_50", "fd_embedded_ssl_50", "nearest_train"}
    assert line["protocol_facts"]["sampler"]["nfe"] == 3
    assert line["protocol"] != lines(run.curve)[0]["protocol"]


def test_several_guidance_scales_are_measured_in_one_go(run: RunDir, capsys: pytest.CaptureFixture[str]) -> None:
    main([str(run.path), "eval.samples=20", "--guidance", "1", "2.5"])
    assert "evaluation_guidance_1\n" in capsys.readouterr().out
    (line,) = lines(run.path / "curve_evaluation_guidance_2.5.jsonl")
    assert line["protocol_facts"]["guidance"]["scale"] == 2.5


def test_averages_and_scales_are_measured_in_all_combinations_with_the_networks_loaded_once(
    run: RunDir, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = made_metrics(monkeypatch)
    arguments = ["--guidance", "1", "2.5", "--ema", "0.99", "0.5", "eval.samples=20"]
    main([str(run.path), *arguments])
    assert len(made) == 1
    found = {}
    for decay in ("0.99", "0.5"):
        for scale in ("1", "2.5"):
            (line,) = lines(run.path / f"curve_evaluation_ema_{decay}_guidance_{scale}.jsonl")
            facts = line["protocol_facts"]
            assert line["ema_decay"] == facts["ema_decay"] == float(decay)
            assert facts["guidance"]["scale"] == float(scale)
            found[line["protocol"]] = (decay, tuple(line["values"].values()))
    assert len(found) == 4
    averages = [{values for of, values in found.values() if of == decay} for decay in ("0.99", "0.5")]
    assert not averages[0] & averages[1]


def test_an_average_that_the_run_does_not_keep_is_said_with_those_that_it_keeps(
    run: RunDir, capsys: pytest.CaptureFixture[str]
) -> None:
    message = refused([str(run.path), "--ema", "0.5", "0.9999"], capsys)
    assert "keeps the averages 0.99, 0.5;" in message
    assert not list(run.path.glob("samples/evaluation*"))


def test_an_npz_of_somebody_else_is_measured(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    images = np.random.default_rng(0).integers(256, size=(20, 16, 16, 1), dtype=np.uint8)
    np.savez(tmp_path / "theirs.npz", images)
    main([str(tmp_path / "theirs.npz"), "--protocol", "embedded", "--data", "digits"])
    said = capsys.readouterr().out
    assert "fd_embedded_sup_20" in said
    assert "values of other numbers do not compare" in said


def refused(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    with pytest.raises(SystemExit) as stopped:
        main(arguments)
    assert stopped.value.code == 2
    message = capsys.readouterr().err
    assert message.count("\n") == 1, message
    return message


def test_missing_weights_are_said_before_anything_is_sampled(
    run: RunDir, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    monkeypatch.setenv("DIFFX_WEIGHTS", str(tmp_path / "weights"))
    monkeypatch.delenv("DIFFX_INCEPTION_WEIGHTS", raising=False)
    before = sorted(run.path.rglob("*"))
    assert "weights of FID's Inception are not here" in refused([str(run.path), "--protocol", "adm_50k"], capsys)
    assert sorted(run.path.rglob("*")) == before


def test_training_without_the_weights_stops_before_the_first_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from diffx.commands import train as cli
    from tests.run.conftest import small

    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    monkeypatch.setenv("DIFFX_WEIGHTS", str(tmp_path / "weights"))
    monkeypatch.delenv("DIFFX_INCEPTION_WEIGHTS", raising=False)
    monkeypatch.setattr("sys.argv", ["diffx", *small("eval=curve")])
    with pytest.raises(SystemExit):
        cli.main()
    assert "weights of FID's Inception are not here" in capsys.readouterr().err
    assert not list(Path().iterdir())


def test_a_run_is_measured_where_it_was_trained(run: RunDir, monkeypatch: pytest.MonkeyPatch) -> None:
    """trainer.accelerator=cpu holds for the metrics' networks too, on a machine that has a GPU."""
    made = made_metrics(monkeypatch)
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 1)
    main([str(run.path), "eval.samples=20", "trainer.accelerator=cpu"])
    assert [arguments["device"].type for arguments in made] == ["cpu"]


def test_nothing_to_compare_with_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    np.savez(tmp_path / "s.npz", np.zeros((2, 16, 16, 3), np.uint8))
    assert "--data NAME" in refused([str(tmp_path / "s.npz"), "--protocol", "embedded"], capsys)


def test_an_empty_folder_and_a_missing_file_are_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "holds no pictures" in refused([str(tmp_path)], capsys)
    assert "does not exist" in refused([str(tmp_path / "gone")], capsys)
